/* What madvise(2), mprotect(2) and mlock(2) do with memory that is not there yet. */
#include "memory.h"

#include <stdio.h>
#include <string.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

static char *one, *other;

static void a_range(void) {
	one = filled(64, 64, 1);
}

static void two_ranges(void) {
	one = filled(64, 64, 1);
	other = filled(64, 64, 2);
}

static void give_up(void) {
	see("some", one + 8 * PAGE, 4 * PAGE);
	result("give up a part", madvise(one + 10 * PAGE, 20 * PAGE, MADV_DONTNEED));
	see("all", one, 64 * PAGE);
	fill(one + 12 * PAGE, PAGE, 3);
	see("all, written", one, 64 * PAGE);
	result("give up all", madvise(one, 64 * PAGE, MADV_DONTNEED));
	see("nothing", one, 64 * PAGE);
	see("the other", other, 64 * PAGE);
}

static void see_what_is_given_up(void) {
	see("given up by the parent", one, 64 * PAGE);
	result("give up", madvise(other, 30 * PAGE, MADV_DONTNEED));
	see("the other, given up", other, 64 * PAGE);
}

static void give_up_and_fork(void) {
	see("some", one + 8 * PAGE, 4 * PAGE);
	result("give up", madvise(one + 10 * PAGE, 20 * PAGE, MADV_DONTNEED));
	in_child(see_what_is_given_up);
	see("the other, which the child has given up", other, 64 * PAGE);
	see("all", one, 64 * PAGE);
}

static void write_first(void) {
	for (size_t page = 0; page < 64; page += 3)
		one[page * PAGE + page] = (char)page;
	see("all", one, 64 * PAGE);
}

/* The kernel may keep what was there or not, until it is written to. */
static void free_lazily(void) {
	static char expected[PAGE];
	static const char zeros[PAGE];
	see("some", one + 8 * PAGE, 4 * PAGE);
	memcpy(expected, one + 8 * PAGE, PAGE);
	result("free", madvise(one, 64 * PAGE, MADV_FREE));
	int is_one = memcmp(one + 8 * PAGE, expected, PAGE) == 0 || memcmp(one + 8 * PAGE, zeros, PAGE) == 0;
	say("one of both: %d", is_one);
	fill(one, 32 * PAGE, 5);
	see("written", one, 32 * PAGE);
}

static void see_all(void) {
	see("one", one, 64 * PAGE);
	see("other", other, 64 * PAGE);
}

static void set_wiped(void) {
	two_ranges();
	if (madvise(one, 32 * PAGE, MADV_WIPEONFORK) != 0)
		say("%m");
}

static void wiped(void) {
	see_all();
	fill(one, 40 * PAGE, 6);
	in_child(see_all);
	see_all();
}

static void left_out_of_forks(void) {
	result("leave out", madvise(one, 32 * PAGE, MADV_DONTFORK));
	in_child(see_all);
	see_all();
}

static void populate(void) {
	result("populate to read", madvise(one, 40 * PAGE, MADV_POPULATE_READ));
	see("read", one, 64 * PAGE);
	result("populate to write", madvise(other, 40 * PAGE, MADV_POPULATE_WRITE));
	see("written", other, 64 * PAGE);
}

static void advise_otherwise(void) {
	static const int advice[] = {MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_COLD, MADV_PAGEOUT,
		MADV_DONTDUMP, MADV_MERGEABLE, MADV_UNMERGEABLE, MADV_NOHUGEPAGE, MADV_HUGEPAGE};
	see("some", one + 8 * PAGE, 4 * PAGE);
	for (size_t i = 0; i < sizeof advice / sizeof *advice; i++) {
		madvise(one, 64 * PAGE, advice[i]);
		see("some", one + (i + 9) * PAGE, 2 * PAGE);
	}
	see("all", one, 64 * PAGE);
}

static void protect(void) {
	result("forbid to write", mprotect(one, 20 * PAGE, PROT_READ));
	say("read: %d, write: %d", touch(one, 0), touch(one, 1));
	say("write what is not there: %d", touch(one + 5 * PAGE, 1));
	result("forbid all", mprotect(one + 10 * PAGE, 20 * PAGE, PROT_NONE));
	say("read: %d, write: %d", touch(one + 12 * PAGE, 0), touch(one + 25 * PAGE, 1));
	see("all", one, 64 * PAGE);
	result("allow all", mprotect(one, 64 * PAGE, PROT_READ | PROT_WRITE));
	see("all", one, 64 * PAGE);
	say("write: %d", touch(one + 12 * PAGE, 1));
}

static void hidden(void) {
	two_ranges();
	mprotect(one, 64 * PAGE, PROT_NONE);
	mprotect(other, 64 * PAGE, PROT_READ);
}

static void show(void) {
	say("read: %d", touch(one + 3 * PAGE, 0));
	result("allow to read", mprotect(one, 32 * PAGE, PROT_READ));
	see("all", one, 64 * PAGE);
	result("allow all", mprotect(one, 64 * PAGE, PROT_READ | PROT_WRITE));
	see("all", one, 64 * PAGE);
	result("allow to write", mprotect(other, 10 * PAGE, PROT_READ | PROT_WRITE));
	other[0]++;
	see("other", other, 64 * PAGE);
}

static void locked(void) {
	two_ranges();
	mlock(one, 64 * PAGE);
}

/* How much is locked, which a fork begins with none of. */
static void say_locked(void) {
	char line[256];
	FILE *status = fopen("/proc/self/status", "r");
	while (status && fgets(line, sizeof line, status))
		if (strncmp(line, "VmLck:", 6) == 0)
			say("%.*s", (int)strcspn(line, "\n"), line);
	if (status)
		fclose(status);
}

static void lock(void) {
	say_locked();
	result("lock", mlock(other + PAGE, 40 * PAGE));
	say_locked();
	see_all();
	result("unlock", munlock(other, 64 * PAGE));
	result("lock when touched", mlock2(one, 64 * PAGE, MLOCK_ONFAULT));
	see_all();
	result("lock all", mlockall(MCL_CURRENT));
	see_all();
	result("unlock all", munlockall());
	result("give up", madvise(one, 10 * PAGE, MADV_DONTNEED));
	see_all();
}

static char *huge;
#define HUGE (2UL << 20)

static void huge_pages(void) {
	char *place = reserved(4 * HUGE / PAGE);
	huge = (char *)(((uintptr_t)place + HUGE - 1) & ~(HUGE - 1));
	mprotect(huge, 2 * HUGE, PROT_READ | PROT_WRITE);
	madvise(huge, 2 * HUGE, MADV_HUGEPAGE);
	fill(huge, HUGE + HUGE / 2, 8);
}

static void see_huge(void) {
	see("all", huge, 2 * HUGE);
}

static void use_huge(void) {
	see("some", huge + 100 * PAGE, PAGE);
	result("give up a part", madvise(huge + 200 * PAGE, 100 * PAGE, MADV_DONTNEED));
	fill(huge + 250 * PAGE, PAGE, 4);
	in_child(see_huge);
	see_huge();
	/* Whether it can is the kernel's to say; that nothing changes is ours. */
	madvise(huge, 2 * HUGE, 25 /* MADV_COLLAPSE */);
	see_huge();
}

const struct memory_case giving_up_cases[] = {
	{"give-up", two_ranges, give_up},
	{"give-up-and-fork", two_ranges, give_up_and_fork},
	{"write-first", a_range, write_first},
	{"free-lazily", a_range, free_lazily},
	{"wiped", set_wiped, wiped},
	{"left-out-of-forks", two_ranges, left_out_of_forks},
	{"populate", two_ranges, populate},
	{"advise-otherwise", a_range, advise_otherwise},
	{"protect", a_range, protect},
	{"show-what-was-hidden", hidden, show},
	{"lock", locked, lock},
	{"huge-pages", huge_pages, use_huge},
	{NULL, NULL, NULL},
};
