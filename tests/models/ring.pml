/* ring.pml - the ring of rings/spsc_ring.h with its two sleepers, under weak memory.
 *
 * What is modelled: private indices and published ones, batches that are published late, space that is
 * given back late, the sleep words (one writer each: sequence << 2 | kind), the waker's private memory
 * of the word it kicked, the look at the producer's sleep word that is skipped while the producer
 * cannot be asleep (ring_store_head), death at any step, and a hostile producer.
 *
 * Each side owns a FIFO store buffer (x86-TSO).  -DPSO drains the producer's per address (stores to
 * different words may be reordered: the weak-memory case for publish order).  -DSPEC lets the consumer
 * load the slot before it loads tail (a missing acquire).
 *
 * -DBATCH lets the producer publish late, -DLAZY lets the consumer give space back late (each multiplies
 * the states). Sizes: -DN (slots, a power of two), -DM (index space, > 2N), -DITEMS; -DWIDE makes every second
 * item two slots wide, so that a producer can need half of a ring of 4.
 *
 * Defects that can be switched on (each must be FOUND by the checker):
 *   -DNOFENCE_P  no full fence between "publish index" and "look at the sleep word"
 *   -DNOFENCE_C  no full fence between "write sleep word" and "look at the index again"
 *   -DNORECHECK  the sleeper does not look again after it wrote its word
 *   -DNOSEQ      the sleep word has no sequence: the waker takes a new sleep for the one it kicked
 *   -DLOOKLATE   the look at the producer's word is skipped too long (three quarters, not half)
 *   -DPSO        without -DREL: a slot may become visible after tail
 *   -DSPEC       without -DACQ: a slot may be read before tail
 *   -DEVIL       the peer publishes any tail; with -DNOCHECK the consumer trusts it
 *   -DFLIP       the peer rewrites a length word at any time; with -DTWICE it is fetched twice
 * Faults that a right ring survives:
 *   -DKILLP / -DKILLC  producer / consumer is killed between any two steps (stores already issued
 *                still drain; the death event - pidfd or socket HUP - comes after that)
 *
 * spin -a [flags] ring.pml; cc -O2 -DSAFETY pan.c; ./a.out -m2000000.  test_model.py has the matrix.
 */
#ifndef N
#define N      2
#define M      8
#define ITEMS  5
#endif
#define SB     4          /* store buffer depth */

#define TAIL   0          /* written by the producer          */
#define HEAD   1          /* written by the consumer          */
#define CSLP   2          /* the consumer's sleep word        */
#define PSLP   3          /* the producer's sleep word        */
#define LENW   4          /* one length word                  */
#define SLOT   5          /* SLOT+0 .. SLOT+N-1: payload      */

byte mem[13];             /* room for N <= 8 */
chan psb = [SB] of { byte, byte };
chan csb = [SB] of { byte, byte };
bool bell_c, bell_p;      /* persistent doorbell: eventfd, socket byte or futex on the bell word */
bool pdead, cdead, poisoned;
byte kicked_c, kicked_p;  /* private to the waker: the consumer's (producer's) word that it kicked last */
byte consumed;

#define ST(sb, a, v)  sb ! a, v
#ifdef NOFENCE_P
#define FENCE_PUB(sb) skip
#else
#define FENCE_PUB(sb) empty(sb)
#endif
#ifdef NOFENCE_C
#define FENCE_SLP(sb) skip
#else
#define FENCE_SLP(sb) empty(sb)
#endif
#ifdef REL
#define RELEASE(sb)   empty(sb)      /* stronger than needed, same effect on the slot -> tail order */
#else
#define RELEASE(sb)   skip
#endif
#ifdef KILLP
#define KP            if :: goto dead :: skip fi
#else
#define KP            skip
#endif
#ifdef KILLC
#define KC            if :: goto dead :: skip fi
#else
#define KC            skip
#endif
#ifdef WIDE
#define WIDTH(i)      (1 + ((i) & 1))
#else
#define WIDTH(i)      1
#endif
/* A sequence never repeats: in the model the next one is any that is neither the present one nor the one
 * that the waker remembers, which is all it is ever compared with. */
#ifdef NOSEQ
#define NEXT(s, kicked) s
#else
#define NEXT(s, kicked) ((s != 0 && kicked != ASLEEP(0)) -> 0 : ((s != 1 && kicked != ASLEEP(1)) -> 1 : 2))
#endif
#define ASLEEP(s)     ((s) * 4 + 1)
#define AWAKE(s)      ((s) * 4)
#ifdef LOOKLATE
#define LOOK_BEYOND   (3 * N / 4)
#else
#define LOOK_BEYOND   (N / 2)
#endif
#define DISTANCE(a, b) ((a + M - b) % M)

active proctype flush_p()
{	byte v, a;
end:	do
#ifdef PSO
	:: atomic { psb ?? TAIL, v   -> mem[TAIL] = v; v = 0 }
	:: atomic { psb ?? PSLP, v   -> mem[PSLP] = v; v = 0 }
	:: atomic { psb ?? 5, v      -> mem[5] = v; v = 0 }      /* SLOT   */
	:: atomic { psb ?? 6, v      -> mem[6] = v; v = 0 }      /* SLOT+1: PSO is for N = 2 */
#else
	:: atomic { psb ? a, v -> mem[a] = v; v = 0; a = 0 }
#endif
	od
}
active proctype flush_c()
{	byte v, a;
end:	do
	:: atomic { csb ? a, v -> mem[a] = v; v = 0; a = 0 }
	od
}

/* ring_flush_needs_kick(): tail is stored, then fence, look, kick what was not kicked. */
inline flush()
{
	KP; ST(psb, TAIL, t); published = t;
	KP; FENCE_PUB(psb);
	KP; if
	:: atomic { (mem[CSLP] & 3) != 0 && mem[CSLP] != kicked_c -> kicked_c = mem[CSLP] }; KP; bell_c = 1
	:: else
	fi
}

#ifndef EVIL
active proctype producer()
{	byte t, h, i, published;     /* private: own index, what was seen of the other, what was published */
	byte sequence;
	do
	:: i == ITEMS -> break
	:: else ->
again:		KP; h = mem[HEAD];
		if
		:: DISTANCE(t, h) + WIDTH(i) <= N ->
			KP; ST(psb, SLOT + (t % N), i + 1);
			RELEASE(psb);
			t = (t + WIDTH(i)) % M;
			i++;
			if
#ifdef BATCH
			:: i < ITEMS -> skip         /* later */
#endif
			:: flush()
			fi
		:: else ->
			if
			:: published != t -> flush(); goto again
			:: else
			fi;
			sequence = NEXT(sequence, kicked_p);   /* ring_producer_arm() */
			KP; ST(psb, PSLP, ASLEEP(sequence));
			FENCE_SLP(psb);
			KP; h = mem[HEAD];
			if
#ifndef NORECHECK
			:: DISTANCE(t, h) + WIDTH(i) <= N -> ST(psb, PSLP, AWAKE(sequence))
#endif
			:: else ->
				if
				:: atomic { bell_p -> bell_p = 0 }; ST(psb, PSLP, AWAKE(sequence))
				:: cdead -> goto dead
				fi
			fi;
			goto again
		fi
	od;
dead:	empty(psb);                  /* stores issued before SIGKILL always reach memory */
	pdead = 1
}
#else
active proctype producer()           /* hostile: any tail, any time; never rings */
{	byte n;
	do
	:: n < 3 -> n++;
		if :: mem[TAIL] = 0 :: mem[TAIL] = 1 :: mem[TAIL] = 3 :: mem[TAIL] = 5 :: mem[TAIL] = 7 fi;
		bell_c = 1
	:: break
	od;
	pdead = 1
}
#endif

#ifdef FLIP
active proctype flipper()            /* hostile: the length word changes between two fetches */
{	mem[LENW] = 1; mem[LENW] = 9; mem[LENW] = 1 }
#endif

/* ring_store_head(): the look is made only when the producer can be asleep. */
inline store_head()
{
	KC; ST(csb, HEAD, h); told = h;
	if
	:: DISTANCE(t, checked) > LOOK_BEYOND ->
		KC; FENCE_PUB(csb);
		checked = h;
		if
		:: 4 * (N - DISTANCE(t, h)) >= N ->
			KC; if
			:: atomic { (mem[PSLP] & 3) != 0 && mem[PSLP] != kicked_p -> kicked_p = mem[PSLP] }; KC; bell_p = 1
			:: else
			fi
		:: else
		fi
	:: else
	fi
}

active proctype consumer()
{	byte h, t, v, want = 1, dlen;     /* h: private copy of head, told: what was published of it */
	byte told, checked = M - N, sequence;
	bool last;
	do
	:: want == ITEMS + 1 -> break
	:: else ->
again:		last = pdead;                /* read before tail: after a death one more look, then the end */
#if defined(SPEC) && !defined(ACQ)
		KC; v = mem[SLOT + (h % N)]; /* too early: hoisted above the load of tail */
#endif
		if
		:: t == h ->
			if
			:: told != h -> store_head()
			:: else
			fi;
			KC; t = mem[TAIL]
		:: else
		fi;
#ifndef NOCHECK
		if
		:: DISTANCE(t, told) > N || DISTANCE(t, told) < DISTANCE(h, told) -> poisoned = 1; break
		:: else
		fi;
#endif
		if
		:: t != h ->
			assert(DISTANCE(t, h) <= N);             /* never more than there is room for */
#if !(defined(SPEC) && !defined(ACQ))
			KC; v = mem[SLOT + (h % N)];
#endif
#ifndef EVIL
			assert(v == want);                       /* in order, none lost, none twice, none torn */
#endif
#ifdef FLIP
#ifdef TWICE
			if
			:: mem[LENW] <= 4 -> dlen = mem[LENW]; assert(dlen <= 4)
			:: else
			fi;
#else
			dlen = mem[LENW];
			if
			:: dlen <= 4 -> assert(dlen <= 4)
			:: else
			fi;
#endif
			dlen = 0;
#endif
			h = (h + WIDTH(want - 1)) % M;
			want++; consumed++;
			v = 0;
			if
			:: store_head()                          /* an eighth has gathered, or at will */
#ifdef LAZY
			:: skip                                  /* later, when the ring looks empty */
#endif
			fi;
			if
			:: want == ITEMS + 1 && told != h -> store_head(); break
			:: want == ITEMS + 1 && told == h -> break
			:: else
			fi
		:: t == h ->
			if :: last -> break :: else fi;          /* dead and drained: reclaim */
			sequence = NEXT(sequence, kicked_c);     /* ring_consumer_arm() */
			KC; ST(csb, CSLP, ASLEEP(sequence));
			FENCE_SLP(csb);
			KC; v = mem[TAIL];
			if
#ifndef NORECHECK
			:: v != h -> ST(csb, CSLP, AWAKE(sequence))
#endif
			:: else ->
				if
				:: atomic { bell_c -> bell_c = 0 }; ST(csb, CSLP, AWAKE(sequence))
				:: pdead -> ST(csb, CSLP, AWAKE(sequence))
				fi
			fi;
			v = 0;
			goto again
		fi
	od;
#if defined(KILLP) && !defined(KILLC)
	/* every published item was consumed: nothing published is lost by the peer's death */
	assert(want == ITEMS + 1 || (pdead && mem[TAIL] == h));
#endif
dead:	empty(csb);
	cdead = 1
}
