/* Whatever comes: operations in an order that a number, the variant, says. */
#include "memory.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* A place where pages are mapped, unmapped and moved one by one, and some that are moved as a whole. */
#define FIELD 96UL
#define WHOLE 24UL
#define WHOLES 3
#define PLACES 6
#define STEPS 60
#define DEPTH_MAX 3

static char *field, *place[PLACES], *whole[WHOLES];
static uint64_t state;
static int depth, file;

static uint64_t next(uint64_t below) {
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (state >> 11) % below;
}

static void prepare(void) {
	/* Every third group of eight pages was never touched. */
	field = filled(FIELD, 0, 0);
	for (size_t page = 0; page < FIELD; page++)
		if (page / 8 % 3)
			fill(field + page * PAGE, PAGE, 100 + page);
	for (size_t i = 0; i < PLACES; i++)
		place[i] = i < WHOLES ? filled(WHOLE, WHOLE - 4 * i, 200 + i) : reserved(WHOLE + 32) + 16 * PAGE;
	for (size_t i = 0; i < WHOLES; i++)
		whole[i] = place[i];
	char name[512];
	snprintf(name, sizeof name, "%s/random", folder);
	file = open(name, O_RDWR | O_CREAT, 0600);
	unlink(name);
	close(file);
}

static void see_all(void) {
	for (size_t page = 0; page < FIELD; page += 8) {
		char name[32];
		snprintf(name, sizeof name, "field from %zu", page);
		see(name, field + page * PAGE, 8 * PAGE);
	}
	for (size_t i = 0; i < WHOLES; i++)
		see("whole", whole[i], WHOLE * PAGE);
}

static void steps(int count);

static void on_the_field(void) {
	size_t first = next(FIELD), pages = 1 + next(8);
	if (first + pages > FIELD)
		pages = FIELD - first;
	char *at = field + first * PAGE;
	size_t bytes = pages * PAGE;
	static const int protections[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE};
	switch (next(9)) {
	case 0:
		result("unmap", munmap(at, bytes));
		break;
	case 1:
		result("map", mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ? -1 : 0);
		break;
	case 2:
		result("protect", mprotect(at, bytes, protections[next(4)]));
		break;
	case 3:
		result("give up", madvise(at, bytes, MADV_DONTNEED));
		break;
	case 4: {
		/* One page alone is in one mapping. */
		size_t to = next(FIELD);
		if (to != first)
			result("move", mremap(at, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED | (next(3) ? 0 : MREMAP_DONTUNMAP), field + to * PAGE) == MAP_FAILED ? -1 : 0);
		break;
	}
	case 5:
		say("write: %d", touch(at + next(PAGE), 1));
		break;
	case 6:
		if (touch(at, 1) == 0)
			fill(at, PAGE, next(1000));
		break;
	case 7:
		say("out: %zd", pwrite(file, at + next(100), PAGE, next(16) * PAGE));
		break;
	default:
		say("in: %zd", pread(file, at + next(100), PAGE / 2, next(16) * PAGE));
		break;
	}
	see("there", at, bytes);
}

static void with_a_whole(void) {
	size_t which = next(WHOLES), page = next(WHOLE), pages = 1 + next(WHOLE - page);
	char **at = &whole[which];
	switch (next(6)) {
	case 0:
	case 1: {
		char *to = place[next(PLACES)];
		for (size_t i = 0; i < WHOLES; i++)
			if (to == whole[i])
				return;
		result("move a whole", mremap(*at, WHOLE * PAGE, WHOLE * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED ? -1 : 0);
		*at = to;
		break;
	}
	case 2:
		result("give up", madvise(*at + page * PAGE, pages * PAGE, MADV_DONTNEED));
		break;
	case 3:
		fill(*at + page * PAGE, pages * PAGE, next(1000));
		break;
	case 4: {
		/* Away and back, with less of it. */
		char *grown = mremap(*at, page * PAGE + PAGE, (WHOLE + 8) * PAGE, MREMAP_MAYMOVE, NULL);
		if (grown == MAP_FAILED || mremap(grown, (WHOLE + 8) * PAGE, WHOLE * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, *at) == MAP_FAILED)
			say("not grown: %m");
		break;
	}
	default:
		(*at)[page * PAGE] ^= 1;
		break;
	}
	see("a page of it", *at + page * PAGE, PAGE);
}

static void in_a_child(void) {
	uint64_t mine = state;
	say("fork");
	pid_t child = fork();
	if (child == 0) {
		depth++;
		state = mine * 3 + 1;
		steps(STEPS / 4);
		see_all();
		_exit(0);
	}
	int status = -1;
	waitpid(child, &status, 0);
	say("child: %x", status);
}

static void steps(int count) {
	for (int i = 0; i < count; i++) {
		uint64_t kind = next(16);
		if (kind == 0 && depth < DEPTH_MAX)
			in_a_child();
		else if (kind < 6)
			with_a_whole();
		else
			on_the_field();
	}
}

static void act(void) {
	char name[512];
	state = strtoull(variant, NULL, 10) * 2 + 1;
	snprintf(name, sizeof name, "%s/random", folder);
	file = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	for (size_t page = 0; page < 16; page++) {
		static char bytes[PAGE];
		fill(bytes, PAGE, page);
		if (pwrite(file, bytes, PAGE, page * PAGE) != (ssize_t)PAGE)
			say("no file");
	}
	steps(STEPS);
	see_all();
}

const struct memory_case random_cases[] = {
	{"random", prepare, act},
	{NULL, NULL, NULL},
};
