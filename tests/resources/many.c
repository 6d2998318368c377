/* SPDX-License-Identifier: Apache-2.0 */
/* many STATUS TASKS THREADS: a root with TASKS children, each of THREADS threads (the first included) that sleep; also for the bench. */
#include <pthread.h>
#include <semaphore.h>

#include "res.h"

struct thread { sem_t go, done; struct res *r; pid_t tid; uint64_t word; };
struct task { struct thread *threads; int count; };

/* Each thread has a word of its own on its stack and in its thread-local memory. */
static __thread uint64_t local;

static void *thread_run(void *arg)
{
	struct thread *t = arg;
	volatile uint64_t word = t->word;

	t->tid = gettid();
	local = word;
	for (;;) {
		sem_post(&t->done);
		while (sem_wait(&t->go))
			;
		WANT_EQ(t->r, word, t->word, "word on the stack");
		WANT_EQ(t->r, local, t->word, "thread-local word");
		WANT_EQ(t->r, gettid(), t->tid, "tid");
	}
	return NULL;
}

static void task_check(struct res *r, void *arg)
{
	struct task *task = arg;

	for (int i = 0; i < task->count; i++) {
		sem_post(&task->threads[i].go);
		while (sem_wait(&task->threads[i].done))
			;
	}
	(void)r;
}

static void task_run(struct res *r, int number, int threads)
{
	struct task task = { calloc(threads, sizeof(struct thread)), threads };
	pthread_attr_t attr;
	pthread_t id;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	for (int i = 0; i < threads; i++) {
		struct thread *t = &task.threads[i];

		t->r = r;
		t->word = res_word(number, i);
		sem_init(&t->go, 0, 0);
		sem_init(&t->done, 0, 0);
		MUST(r, pthread_create(&id, &attr, thread_run, t) == 0);
		while (sem_wait(&t->done))
			;
	}
	res_serve(r, task_check, &task);
}

int main(int argc, char **argv)
{
	struct res r = res_start(argc, argv);
	int tasks = argc > 2 ? atoi(argv[2]) : 100, threads = argc > 3 ? atoi(argv[3]) : 8;
	pid_t *pids = calloc(tasks, sizeof(pid_t));

	for (int i = 0; i < tasks; i++) {
		pids[i] = fork();
		MUST(&r, pids[i] >= 0);
		if (pids[i] == 0)
			task_run(&r, i, threads - 1);
	}
	for (int i = 0; i < tasks; i++)	/* an answer means that all of its threads are there */
		res_ask(&r, pids[i]);
	res_ready(&r);
	for (;;) {
		res_next(&r);
		for (int i = 0; i < tasks; i++)
			res_ask(&r, pids[i]);
		res_done(&r);
	}
}
