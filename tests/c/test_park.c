/* park.h under threads: the lock excludes, no wake-up is lost. Build it with -fsanitize=thread as well.
 * argv[1]: rounds per thread (default 200000). */
#include "netstack/park.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { THREADS = 4 };

/* A baton goes round: each thread waits for its word as a follower does (condition and word cleared under the lock),
 * the holder gives it on (word set under the lock, wake after the unlock). Nothing but a right wake-up keeps it going. */
static park_lock_t lock;
static int turn, timeouts;
static long counter, rounds = 200000;
static struct waiter { park_word_t word; int waiting; } waiters[THREADS];

static void *run(void *arg)
{
    int me = (int)(intptr_t)arg, next = (me + 1) % THREADS;
    unsigned seed = (unsigned)me * 7919 + 1;
    for (long i = 0; i < rounds; i++) {
        park_lock(&lock);
        while (turn != me) {
            int64_t until = park_now_ns() + 3000000000LL;
            int short_wait = (rand_r(&seed) & 7) == 0;
            if (short_wait)
                until = park_now_ns() + rand_r(&seed) % 50000;
            waiters[me].waiting = 1;
            park_store(&waiters[me].word, 0);
            park_unlock(&lock);
            int r = park_wait(&waiters[me].word, 0, until);
            park_lock(&lock);
            waiters[me].waiting = 0;
            if (r == ETIMEDOUT && !short_wait && turn != me) {
                printf("lost wake-up of thread %d at %ld\n", me, i);
                exit(1);
            }
            timeouts += r == ETIMEDOUT;
        }
        counter++;
        turn = next;
        int wake = waiters[next].waiting && !park_load(&waiters[next].word);
        if (wake)
            park_store(&waiters[next].word, 1);
        park_unlock(&lock);
        if (wake)
            park_wake(&waiters[next].word);
    }
    return NULL;
}

static long contended;
static void *add(void *arg)
{
    (void)arg;
    for (long i = 0; i < rounds; i++) {
        park_lock(&lock);
        contended++;
        park_unlock(&lock);
    }
    return NULL;
}

static void all(void *(*f)(void *))
{
    pthread_t t[THREADS];
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&t[i], NULL, f, (void *)(intptr_t)i))
            exit(2);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        rounds = atol(argv[1]);
    all(add);
    if (contended != rounds * THREADS) {
        printf("lock let two in: %ld of %ld\n", contended, rounds * THREADS);
        return 1;
    }
    all(run);
    if (counter != rounds * THREADS)
        return 1;
    printf("%ld hand-overs, %d short timeouts\n", counter, timeouts);
    return 0;
}
