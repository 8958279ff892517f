/* A process that sleeps on a small stack in the middle of memory of its own, and at the very end of another one that
 * has nothing below it. It writes "COUNT BYTES" to FOLDER/PID, where PID is its number as the host knows it and BYTES
 * is how much of that memory has been changed. */
#include "counts.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>

enum { AREA = 64 << 10, STACK = 2 << 10, PAGE = 4 << 10, PATTERN = 0x77 };

static ucontext_t back, coroutines[2];

static void sleeps(int self) {
	struct timespec time = {0, 10000000};
	for (;;) {
		syscall(SYS_nanosleep, &time, NULL);
		swapcontext(&coroutines[self], &back);
	}
}

static unsigned char *area(void) {
	void *area = mmap(NULL, PAGE + AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mprotect(area, PAGE, PROT_NONE);
	return (unsigned char *)area + PAGE;
}

int main(int argc, char **argv) {
	unsigned char *areas[] = {area(), area()};
	/* Where each stack begins: the second one's is the whole of what it has. */
	unsigned char *stacks[] = {areas[0] + AREA / 2, areas[1]};
	memset(areas[0], PATTERN, AREA);
	/* To find a function when it is called first takes more than a small stack has. */
	syscall(SYS_getpid);
	for (int i = 0; i < 2; i++) {
		getcontext(&coroutines[i]);
		coroutines[i].uc_stack.ss_sp = stacks[i];
		coroutines[i].uc_stack.ss_size = STACK;
		makecontext(&coroutines[i], (void (*)(void))sleeps, 1, i);
	}
	for (unsigned long count = 1;; count++) {
		swapcontext(&back, &coroutines[count % 2]);
		unsigned changed = 0;
		for (unsigned char *byte = areas[0]; byte < areas[0] + AREA; byte++)
			changed += *byte != PATTERN && (byte < stacks[0] || byte >= stacks[0] + STACK);
		if (!tell(argv[argc - 1], count, changed))
			return 1;
	}
}
