/* driver.pml - who drives a host: leader, follower, service thread, one lock, two kinds of bell (netstack/driver.pxd).
 *
 * A peer publishes items in a ring; item i belongs to thread 1 + i % 2. Two threads wait for their items: one takes the
 * lead, the other follows; a thread may time out at any sleep and then gives up; a third one may close the host. Instead of
 * thread 1 there may be an event loop (netstack/pollers.pxd): it leads while it sleeps, wakes for other reasons too, and has
 * a bell of its own that rings when somebody else makes its socket ready. A loose one does not notice that it woke: it may
 * be in a callback that never returns (uvloop's), so whoever needs its lead takes it. What is
 * shared with the peer (tail, bell) goes through store buffers (x86-TSO). What is private to the host is only touched
 * under the lock, whose release is a full fence. The property: nobody sleeps for ever (no invalid end state), every
 * thread gets its items in number, or times out, or hears of the close.
 *
 * Defects that can be switched on; each must be FOUND by the checker:
 *   -DNOFENCE_P   peer: no full fence between "publish tail" and "read bell"
 *   -DNOFENCE_H   host: no full fence between "store bell" and "look at tail again"
 *   -DNORECHECK   host: arms the bell without looking at tail again
 *   -DWORDLATE    follower: clears its word after the unlock
 *   -DFORGET      a leader that times out keeps the lead
 *   -DNOARM       a leader that leaves does not arm the bell for the service thread
 *   -DNOKICK      who makes a sleeping leader's socket ready does not wake it
 *   -DKICKLATE    the leader forgets kicks that came while it looked (between its pass and its sleep)
 *   -DBELLKIND    the peer wakes the leader whatever kind of sleeper armed the bell
 *   -DNOBELL      (LOOP) who makes a sleeping loop's socket ready does not ring its bell
 *   -DLOOPKEEP    (LOOP) a loop that woke keeps the lead
 *   -DLOOPNOARM   (LOOP) a loop that woke does not arm the bell for the service thread
 *   -DBELLFIRST   (LOOP) a loop looks at its sockets, and only then is one that sleeps
 *   -DNOHEAR      (LOOSE) the service thread does not hear the bell of a loose leader
 *   -DNOTAKE      (LOOSE) it hears it, silences it, and does not take the lead
 * Variants: -DLOOP, with an event loop; -DLOOSE, with a loose one.
 * Build: spin -a [-D...] driver.pml; cc -O2 -DSAFETY -o pan pan.c; ./pan -m100000
 */
#ifndef ITEMS
#define ITEMS   4
#endif
#ifdef LOOSE
#define LOOP
#endif
#define LEADER  1
#define SERVICE 2

byte tail;                       /* shared with the peer: written by it */
byte bell;                       /* shared: written by the host alone */
chan psb = [2] of { byte };      /* stores to tail on their way */
chan hsb = [3] of { byte };      /* stores to bell; the lock keeps its writers apart */
bool fd[3];                      /* eventfds by kind; fd[0]: the host's own, which wakes its leader */

byte lock_;
byte head;                       /* private from here on, under the lock */
byte leader;
byte ready[3], got[3];
bool waiting[3], gone[3];
bool word[3];                    /* futex words: a follower sleeps while its word is 0 */
bool kick, asleep, closed;
bool loose;                      /* the leader is an event loop that may be busy */
bool loop_bell;                  /* an event loop's own */
bool will_close;                 /* only then the peer may fall silent: nothing else rescues a lost wake-up */
#ifdef LOOSE
bool stuck;                      /* the loop is in a callback for ever */
#endif
byte timeouts = 1;               /* how many sleeps may time out */

active proctype drain_peer() { byte v; end: do :: atomic { psb ? v -> tail = v; v = 0 } od }
active proctype drain_host() { byte v; end: do :: atomic { hsb ? v -> bell = v; v = 0 } od }

inline acquire() { atomic { lock_ == 0 -> lock_ = 1 } }
inline release() { atomic { empty(hsb) -> lock_ = 0 } }

inline wake_up(id)
{	if
#ifdef LOOP
	:: id == 1 ->
#ifndef NOBELL
		loop_bell = 1
#else
		skip
#endif
	:: id != 1 && id == leader ->
#else
	:: id == leader ->
#endif
		kick = 1;
#ifndef NOKICK
		if :: asleep -> fd[0] = 1 :: else fi
#else
		skip
#endif
	:: else -> word[id] = 1
	fi
}

/* The leader goes; the service thread hears the bell for whoever sleeps. */
inline leave(other)
{	leader = 0;
	if
	:: waiting[other] ->
		do
		:: arm(SERVICE);
		   if :: found -> pass() :: else -> break fi
		od
	:: else
	fi
}

/* A pass: take everything that is published and wake whose it is. */
inline pass()
{	t = tail;
	do
	:: head != t ->
		owner = 1 + head % 2;
		ready[owner]++;
		if :: waiting[owner] -> wake_up(owner) :: else fi;
		head++
	:: else -> break
	od;
	t = 0; owner = 0
}

/* Arm the bell; found: input is there already, and nothing is armed. */
inline arm(kind)
{	hsb ! kind;
#ifndef NOFENCE_H
	empty(hsb);
#endif
#ifndef NORECHECK
	found = (tail != head);
	if :: found -> hsb ! 0 :: else fi
#else
	found = 0
#endif
}

active proctype peer()
{	byte t, b;
	do
	:: t == ITEMS || will_close -> break
	:: t != ITEMS ->
		t++;
		psb ! t;
#ifndef NOFENCE_P
		empty(psb);
#endif
		b = bell;
#ifdef BELLKIND
		if :: b -> fd[LEADER] = 1 :: else fi;
#else
		if :: b -> fd[b] = 1 :: else fi;
#endif
		b = 0
	od
}

proctype thread(byte id)
{	byte t, owner;
	bool found, late;

	do
	:: got[id] == ITEMS / 2 -> break
	:: closed || late -> break
	:: else ->
		acquire();
		waiting[id] = 1;
again:		if
		:: ready[id] || closed || late -> goto out
		:: else
		fi;
		if
		:: leader == 0 || leader == id || loose ->
			if :: loose -> loose = 0; asleep = 0 :: else fi;
			leader = id;
			pass();
			if :: ready[id] || closed -> goto out :: else fi;
#ifndef KICKLATE
			kick = 0;
#endif
			release();               /* here it spins: a look at tail and at kick, nothing more */
			acquire();
#ifdef KICKLATE
			kick = 0;
#endif
			if :: kick -> kick = 0; goto again :: else fi;
			arm(LEADER);
			if :: found -> goto again :: else fi;
			asleep = 1;
			release();
			if
			:: fd[LEADER] || fd[0] -> skip
			:: atomic { timeouts -> timeouts-- }; late = 1
			fi;
			acquire();
			asleep = 0;
			fd[LEADER] = 0; fd[0] = 0;
			hsb ! 0;
			goto again
		:: else ->
#ifndef WORDLATE
			word[id] = 0;
#endif
			release();
#ifdef WORDLATE
			word[id] = 0;
#endif
			if
			:: word[id] -> skip
			:: atomic { timeouts -> timeouts-- }; late = 1
			fi;
			acquire();
			goto again
		fi;
out:		waiting[id] = 0;
		if :: ready[id] -> ready[id]--; got[id]++ :: else fi;
		if
#ifdef FORGET
		:: leader == id && !late ->
#else
		:: leader == id ->
#endif
			leader = 0;
			if
			:: waiting[3 - id] ->
#ifndef NOARM
				do
				:: arm(SERVICE);
				   if :: found -> pass() :: else -> break fi
				od
#else
				skip
#endif
			:: else
			fi
		:: else
		fi;
		release()
	od;
	gone[id] = 1
}

#ifdef LOOP
proctype loop(byte id)
{	byte t, owner;
	bool found;

	do
	:: got[id] == ITEMS / 2 -> break
	:: closed -> break
	:: else ->
		acquire();
#ifdef BELLFIRST
		if :: ready[id] || closed -> goto take :: else fi;
		release();
		acquire();
#else
		if :: ready[id] || closed -> goto take :: else fi;
#endif
		if
		:: leader == 0 ->
			leader = id;
			pass();
			if :: ready[id] || closed -> goto go :: else fi;
			kick = 0;
			release();               /* it spins */
			acquire();
			if :: kick || ready[id] || closed -> pass(); goto go :: else fi;
			arm(LEADER);
			if :: found -> pass(); goto go :: else fi;
			asleep = 1;
#ifdef LOOSE
			loose = 1;
#endif
		:: else
		fi;
		waiting[id] = 1;
		release();
		if
		:: fd[LEADER] || fd[0] || loop_bell -> skip
		:: atomic { timeouts -> timeouts-- }     /* a timer, a descriptor of the kernel's */
#ifdef LOOSE
		:: atomic { !stuck -> stuck = 1 }; goto gone_for_good
#endif
		fi;
		acquire();
		waiting[id] = 0;
		loop_bell = 0;
		if
		:: leader == id ->
			asleep = 0; loose = 0;
			fd[LEADER] = 0; fd[0] = 0;
			hsb ! 0;
			pass();
go:
#if defined(LOOPNOARM)
			leader = 0
#elif !defined(LOOPKEEP)
			leave(3 - id)
#else
			skip
#endif
		:: else
		fi;
take:		do :: ready[id] -> ready[id]--; got[id]++ :: else -> break od;
		release()
	od;
gone_for_good:
	gone[id] = 1
}
#endif

active proctype service()
{	byte t, owner;
	bool found, heard;

	do
	:: acquire();
	   if
#ifndef NOTAKE
	   :: leader == 0 || (loose && heard) ->
		if :: loose -> loose = 0; asleep = 0; leader = 0 :: else fi;
#else
	   :: leader == 0 ->
#endif
		pass();
		if
		:: waiting[1] || waiting[2] ->
			do
			:: arm(SERVICE);
			   if :: found -> pass() :: else -> break fi
			od
		:: else
		fi
	   :: else
	   fi;
	   heard = 0;
	   release();
end:	   if
	   :: fd[SERVICE] -> fd[SERVICE] = 0
#if defined(LOOSE) && !defined(NOHEAR)
	   :: fd[LEADER] && loose -> heard = 1       /* and a tick later nothing has changed */
#ifdef NOTAKE
		; fd[LEADER] = 0
#endif
#endif
	   fi
	od
}

active proctype closer()
{	if
	:: skip
	:: will_close = 1;
	   acquire();
	   closed = 1;
	   if :: waiting[1] -> wake_up(1) :: else fi;
	   if :: waiting[2] -> wake_up(2) :: else fi;
	   release()
	fi
}

#ifdef LOOP
init { atomic { run loop(1); run thread(2) } }
#else
init { atomic { run thread(1); run thread(2) } }
#endif
