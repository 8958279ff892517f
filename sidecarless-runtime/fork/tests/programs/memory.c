/* A process that does one thing with its memory after it was forked: `memory CASE VARIANT FOLDER`.
 *
 * It prepares, says so by a file `ready`, and looks for files that tell it what to do: `PID.act`, where PID is its
 * number as the host knows it, for a process that was forked from outside, and `PID.fork` for a plain fork(2) whose
 * child acts. Either writes a transcript to `PID.said`, complete when `PID.end` is there; for a plain fork PID is the
 * parent's. */
#include "memory.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

const char *folder, *variant;

static int transcript;
static sigjmp_buf out_of_it;

static void leave(int signal) {
	siglongjmp(out_of_it, signal);
}

int touch(volatile void *place, int writing) {
	volatile char *byte = place;
	struct sigaction action = {.sa_handler = leave}, segv, bus;
	sigaction(SIGSEGV, &action, &segv);
	sigaction(SIGBUS, &action, &bus);
	int signal = sigsetjmp(out_of_it, 1);
	if (signal == 0) {
		char was = *byte;
		if (writing)
			*byte = was;
	}
	sigaction(SIGSEGV, &segv, NULL);
	sigaction(SIGBUS, &bus, NULL);
	return signal;
}

void say(const char *format, ...) {
	char line[1024];
	va_list arguments;
	va_start(arguments, format);
	int length = vsnprintf(line, sizeof line - 1, format, arguments);
	va_end(arguments);
	line[length++] = '\n';
	if (write(transcript, line, length) != length)
		_exit(3);
}

void see(const char *what, const void *start, size_t bytes) {
	uint64_t sum = 0xcbf29ce484222325;
	for (size_t page = 0; page < bytes; page += PAGE) {
		const char *from = (const char *)start + page;
		int signal = touch((void *)from, 0);
		if (signal) {
			say("%s: signal %d at page %zu", what, signal, page / PAGE);
			continue;
		}
		size_t end = bytes - page < PAGE ? bytes - page : PAGE;
		for (size_t i = 0; i < end; i++)
			sum = (sum ^ (unsigned char)from[i]) * 0x100000001b3;
	}
	say("%s: %016lx", what, sum);
}

void result(const char *what, long result) {
	if (result == -1)
		say("%s: %s", what, strerror(errno));
	else
		say("%s: done", what);
}

void fill(void *start, size_t bytes, unsigned salt) {
	unsigned char *to = start;
	for (size_t i = 0; i < bytes; i++)
		to[i] = (unsigned char)(((i + salt * 7919u) * 2654435761u) >> 13);
}

char *reserved(size_t pages) {
	char *place = mmap(NULL, pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (place == MAP_FAILED)
		_exit(4);
	return place;
}

char *filled(size_t pages, size_t of_them, unsigned salt) {
	/* With room on both sides, so that no neighbour becomes one with it. */
	char *place = reserved(pages + 32) + 16 * PAGE;
	if (mprotect(place, pages * PAGE, PROT_READ | PROT_WRITE) != 0)
		_exit(4);
	fill(place, of_them * PAGE, salt);
	return place;
}

void in_child(void (*part)(void)) {
	pid_t child = fork();
	if (child == 0) {
		part();
		_exit(0);
	}
	int status = -1;
	if (child < 0 || waitpid(child, &status, 0) != child)
		say("child: %s", strerror(errno));
	else
		say("child: %s %d", WIFEXITED(status) ? "exit" : "signal", WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

static const struct memory_case *find(const char *name) {
	const struct memory_case *const all[] = {
		moving_cases, giving_up_cases, mapping_cases, calling_cases, racing_cases, random_cases,
	};
	for (size_t file = 0; file < sizeof all / sizeof *all; file++)
		for (const struct memory_case *one = all[file]; one->name; one++)
			if (strcmp(one->name, name) == 0)
				return one;
	return NULL;
}

/* The name of a file for the process that was told to act. */
static const char *named(const char *self, const char *what) {
	static char name[512];
	snprintf(name, sizeof name, "%s/%s.%s", folder, self, what);
	return name;
}

static void act(const struct memory_case *one, const char *self) {
	transcript = open(named(self, "said"), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	if (transcript < 0)
		_exit(5);
	one->act();
	close(transcript);
	close(open(named(self, "end"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	_exit(0);
}

int main(int argc, char **argv) {
	const struct memory_case *one = argc == 4 ? find(argv[1]) : NULL;
	if (!one)
		return 2;
	variant = argv[2];
	folder = argv[3];
	one->prepare();
	close(open(named("all", "ready"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	for (;;) {
		char self[32] = "";
		if (readlink("/proc/self", self, sizeof self - 1) < 0)
			return 1;
		if (access(named(self, "act"), F_OK) == 0)
			act(one, self);
		if (access(named(self, "fork"), F_OK) == 0) {
			unlink(named(self, "fork"));
			if (fork() == 0)
				act(one, self);
			while (wait(NULL) < 0 && errno == EINTR) {}
		}
		usleep(500);
	}
}
