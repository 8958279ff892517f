/* A process that never stays what it is. COUNT says how often it has changed, and FILE is told that.
 *
 * restless FILE process COUNT: it executes itself again and again
 * restless FILE thread COUNT: another thread does
 * restless FILE threads COUNT: there is always a thread besides the first one, and soon another one */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char **arguments;
static int file;

static void tell(unsigned long count) {
	char text[32] = "";
	snprintf(text, sizeof text, "%lu", count);
	if (pwrite(file, text, sizeof text, 0) < 0)
		abort();
}

static void *execute(void *count) {
	char next[32];
	snprintf(next, sizeof next, "%lu", (unsigned long)count + 1);
	execl("/proc/self/exe", arguments[0], arguments[1], arguments[2], next, NULL);
	abort();
}

static void start(void *(*what)(void *), void *count) {
	pthread_t thread;
	if (pthread_create(&thread, NULL, what, count))
		abort();
	pthread_detach(thread);
}

static void *go_on(void *count) {
	tell((unsigned long)count);
	start(go_on, (void *)((unsigned long)count + 1));
	return NULL;
}

int main(int argc, char **argv) {
	void *count = (void *)strtoul(argv[argc - 1], NULL, 10);
	arguments = argv;
	file = open(argv[1], O_WRONLY | O_CLOEXEC);
	tell((unsigned long)count);
	if (!strcmp(argv[2], "process"))
		execute(count);
	start(strcmp(argv[2], "threads") ? execute : go_on, count);
	for (;;)
		pause();
}
