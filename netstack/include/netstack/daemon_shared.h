/* daemon_shared.h - what a daemon and its clients share: messages on the control socket, and a socket's memory.
 *
 * A socket has two pieces of memory, each with one writer: "down" is the daemon's (its clients map it to read), "up" is
 * the clients'. Each begins with a page of words and goes on with the bytes of a ring, whose capacity is a power of two.
 * Indices are free-running u64. The bytes of a stream lie in the rings; everything else is asked for by messages.
 *
 *   down.tail  bytes for the client          up.head    how many of them it took
 *   up.tail    bytes from the client         down.head  how many of them the daemon took
 *   down.bell  a futex: goes up whenever something that a client may wait for has changed
 *   down.note  the daemon asks for a note: sequence << 2 | NOTE_*; zero in the two low bits: it does not
 *
 * A client has the same pair of its own, the board, whose up ring holds numbers of sockets (u32): its notes.
 */
#ifndef NETSTACK_DAEMON_SHARED_H
#define NETSTACK_DAEMON_SHARED_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

enum {
    NSD_MAGIC = 0x4d44534e,              /* "NSDM" */
    NSD_VERSION = 1,
    NSD_PAGE = 4096,                     /* words in front of a ring */
    NSD_DATA_MOST = 66560,               /* bytes behind the head of one message: a datagram and its instructions */
    NSD_NOTES = 1024                     /* places for notes on a board; the page holds the words */
};

enum {                                   /* nsd_message_t.type; a reply has its request's */
    NSD_HELLO = 1,                       /* key: of a reservation, or 0. Reply: number; data: addresses. Board and bell */
    NSD_OPEN,                            /* a family, b type, c protocol. Reply: number, key, c capacity. Memory */
    NSD_CLOSE,                           /* a: 1 do not linger. Reply: c seconds to linger first, then not closed */
    NSD_DUP,                             /* one more reference of this client */
    NSD_ADOPT,                           /* key: a reference to another's socket. Reply as OPEN. Memory */
    NSD_BIND,                            /* address */
    NSD_CONNECT,                         /* address */
    NSD_LISTEN,                          /* a backlog */
    NSD_ACCEPT,                          /* reply: as OPEN, and address. Memory */
    NSD_SHUTDOWN,                        /* a how */
    NSD_NAME,                            /* a: 0 own, 1 the peer's. Reply: address */
    NSD_GETSOCKOPT,                      /* a level, b option, c bytes. Reply: data */
    NSD_SETSOCKOPT,                      /* a level, b option; data */
    NSD_SEND,                            /* a flags, b: 1 with address, c: bytes of instructions in front of the data */
    NSD_RECV,                            /* a bytes, b flags, c room for ancillary data. Reply: see protocol.py */
    NSD_READY,                           /* reply: a pair of descriptors that shows readiness */
    NSD_RESERVE,                         /* references for a child to be; data: numbers (u32), or none: of all. Reply: key */
    NSD_RELEASE,                         /* key: the reservation is not needed */
    NSD_ROUTE                            /* address. Reply: the address it would be sent from */
};

enum {                                   /* down.events, beside the numbers of poll(2) in the low 16 bits */
    NSD_STREAM = 1 << 16,                /* the rings carry the data */
    NSD_SHUT = 1 << 17,                  /* sending is over: EPIPE */
    NSD_EOF = 1 << 18,                   /* nothing comes behind down.tail */
    NSD_CUT = 1 << 19                    /* and it is no end of the peer's: readers get the error */
};

enum { NSD_NOTE_DATA = 1, NSD_NOTE_SPACE = 2 };

/* One message: this, and data. 64 bytes, little-endian. */
typedef struct {
    uint32_t magic;
    uint16_t version;
    uint16_t type;
    uint32_t sequence;                   /* the client's choice, repeated in the reply */
    int32_t status;                      /* of a reply: 0 or an errno number */
    uint32_t number;                     /* of the socket */
    int32_t a, b, c;
    uint64_t key;
    uint8_t address[16];                 /* IPv4: mapped */
    uint16_t port;
    uint16_t spare;
    uint32_t scope;
} nsd_message_t;

typedef struct {
    _Alignas(64) _Atomic uint64_t tail;
    _Alignas(64) _Atomic uint64_t head;
    _Alignas(64) _Atomic uint32_t bell;
    _Atomic uint32_t events;             /* NSD_*, and what poll(2) would say: what a ring shows itself is not told */
    _Atomic uint32_t error;              /* sequence << 16 | errno number: SO_ERROR of a stream */
    _Atomic uint32_t note;
    _Atomic uint32_t kicking;            /* the up.armed that is answered by a byte in the readiness pair: told before */
    _Atomic uint32_t kicked;             /* and behind the byte */
    _Atomic uint32_t drained;            /* the up.filled that was answered by emptying it */
} nsd_down_t;

typedef struct {
    _Alignas(64) _Atomic uint64_t tail;
    _Alignas(64) _Atomic uint64_t head;
    _Alignas(64) _Atomic uint32_t waiting;       /* threads that sleep on down.bell */
    _Atomic uint32_t noted;              /* the down.note that was answered */
    _Atomic uint32_t armed;              /* goes up when a byte in the readiness pair is wanted */
    _Atomic uint32_t filled;             /* odd: the pair was made to show "not writable"; goes up by 2 when it was again */
    _Atomic uint32_t error_taken;        /* the down.error that somebody was told */
    _Atomic uint64_t seen;               /* the byte is for a down.tail beyond this one */
    _Alignas(64) pthread_mutex_t send_lock;      /* among the processes that share the socket; robust */
    _Alignas(64) pthread_mutex_t receive_lock;
} nsd_up_t;

_Static_assert(sizeof(nsd_message_t) == 64, "the message's head is part of the protocol");
_Static_assert(sizeof(nsd_down_t) <= NSD_PAGE && sizeof(nsd_up_t) <= NSD_PAGE, "the words fit their page");

/* --- the daemon's view of the words: each is read once, into a local */

static inline uint64_t nsd_load64(_Atomic uint64_t *w)
{
    return atomic_load_explicit(w, memory_order_acquire);
}

static inline uint32_t nsd_load32(_Atomic uint32_t *w)
{
    return atomic_load_explicit(w, memory_order_acquire);
}

static inline void nsd_store64(_Atomic uint64_t *w, uint64_t v)
{
    atomic_store_explicit(w, v, memory_order_release);
}

static inline void nsd_store32(_Atomic uint32_t *w, uint32_t v)
{
    atomic_store_explicit(w, v, memory_order_release);
}

/* A note of a board: which socket. */
static inline uint32_t nsd_note_at(nsd_up_t *board, uint64_t index)
{
    _Atomic uint32_t *notes = (_Atomic uint32_t *)(void *)((uint8_t *)board + NSD_PAGE);
    return nsd_load32(&notes[index % NSD_NOTES]);
}

/* A store that comes before every later load: the sleeper's half, and the waker's, of each pair of words. */
static inline void nsd_fence(void)
{
    atomic_thread_fence(memory_order_seq_cst);
}

#endif
