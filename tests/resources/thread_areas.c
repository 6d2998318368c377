/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel keeps about a thread's own memory: the rseq area (it goes on
 * telling the CPU), the robust list (a mutex whose owner ends is handed over),
 * and the word that is cleared when a thread ends (so that joining it works).
 */
#include <linux/rseq.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/rseq.h>

#include "res.h"

#define THREADS 3

struct thread {
	struct res *r;
	pthread_t id;
	pthread_mutex_t robust;
	sem_t held, check, checked, end;
	void *robust_head;
	uint32_t *clear_tid;
};

static void *robust_head(void)
{
	void *head = NULL;
	size_t len;

	return syscall(SYS_get_robust_list, 0, &head, &len) == 0 ? head : NULL;
}

/* The kernel writes the number of the CPU into the area whenever this thread moves. */
static void rseq_check(struct res *r, const char *who)
{
	const volatile struct rseq *area = (void *)((char *)__builtin_thread_pointer() + __rseq_offset);
	cpu_set_t all, one;

	sched_getaffinity(0, sizeof(all), &all);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		WANT(r, sched_setaffinity(0, sizeof(one), &one) == 0, "affinity: %s", strerror(errno));
		WANT_EQ(r, area->cpu_id, cpu, "%s: rseq cpu_id", who);
		WANT_EQ(r, area->cpu_id_start, cpu, "%s: rseq cpu_id_start", who);
	}
	sched_setaffinity(0, sizeof(all), &all);
	/* registered with the right size and signature: another try is refused as busy */
	WANT(r, syscall(SYS_rseq, area, 32, 0, RSEQ_SIG) < 0 && errno == EBUSY, "%s: rseq is not registered as before: %s", who, strerror(errno));
}

static void *thread_run(void *arg)
{
	struct thread *t = arg;

	pthread_mutex_lock(&t->robust);
	t->robust_head = robust_head();
	sem_post(&t->held);
	sem_wait(&t->check);
	rseq_check(t->r, "thread");
	WANT(t->r, robust_head() == t->robust_head, "thread: robust list: wanted %p, found %p", t->robust_head, robust_head());
	sem_post(&t->checked);
	sem_wait(&t->end);
	return t;	/* with the mutex held */
}

static void thread_make(struct res *r, struct thread *t)
{
	pthread_mutexattr_t attr;

	t->r = r;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	MUST(r, pthread_mutex_init(&t->robust, &attr) == 0);
	sem_init(&t->held, 0, 0);
	sem_init(&t->check, 0, 0);
	sem_init(&t->checked, 0, 0);
	sem_init(&t->end, 0, 0);
	MUST(r, pthread_create(&t->id, NULL, thread_run, t) == 0);
	sem_wait(&t->held);
}

static void thread_check(struct res *r, struct thread *t)
{
	struct timespec soon;
	void *value = NULL;

	sem_post(&t->check);
	sem_wait(&t->checked);
	WANT_EQ(r, pthread_mutex_trylock(&t->robust), EBUSY, "mutex of a live thread");
	sem_post(&t->end);
	clock_gettime(CLOCK_REALTIME, &soon);
	soon.tv_sec += 10;
	WANT_EQ(r, pthread_timedjoin_np(t->id, &value, &soon), 0, "join");
	WANT(r, value == t, "value of the joined thread: wanted %p, found %p", (void *)t, value);
	clock_gettime(CLOCK_REALTIME, &soon);
	soon.tv_sec += 10;
	WANT_EQ(r, pthread_mutex_timedlock(&t->robust, &soon), EOWNERDEAD, "lock of a mutex whose owner ended");
	pthread_mutex_consistent(&t->robust);
	pthread_mutex_unlock(&t->robust);
	pthread_mutex_destroy(&t->robust);
}

int main(int argc, char **argv)
{
	static struct thread threads[THREADS];
	struct res r = res_start(argc, argv);
	void *head = robust_head();

	MUST(&r, __rseq_size > 0 && head);
	for (int i = 0; i < THREADS; i++)
		thread_make(&r, &threads[i]);
	rseq_check(&r, "main");
	MUST(&r, r.failures == 0);
	res_ready(&r);
	for (;;) {
		res_next(&r);
		rseq_check(&r, "main");
		WANT(&r, robust_head() == head, "main: robust list: wanted %p, found %p", head, robust_head());
		for (int i = 0; i < THREADS; i++) {
			thread_check(&r, &threads[i]);
			thread_make(&r, &threads[i]);
		}
		res_done(&r);
	}
}
