/* What mremap(2) does with memory that is not there yet. */
#include "memory.h"

static char *one, *other, *room;

static void *moved(const char *what, void *from, size_t old, size_t new, int flags, void *to) {
	void *place = mremap(from, old * PAGE, new * PAGE, flags, to);
	result(what, place == MAP_FAILED ? -1 : 0);
	return place;
}

static void two_ranges(void) {
	one = filled(64, 64, 1);
	other = filled(64, 64, 2);
	room = reserved(1024);
}

/* Less than all of it was ever touched, as when an allocation is large. */
static void half_a_range(void) {
	one = filled(64, 32, 3);
	room = reserved(1024);
}

static void grow(void) {
	char *place = moved("grow", one, 64, 256, MREMAP_MAYMOVE, NULL);
	if (place == MAP_FAILED)
		return;
	see("first", place, PAGE);
	fill(place + 128 * PAGE, PAGE, 9);
	see("all", place, 256 * PAGE);
}

static void grow_in_place(void) {
	result("room", munmap(one + 64 * PAGE, 16 * PAGE));
	char *place = moved("grow", one, 64, 80, 0, NULL);
	if (place == MAP_FAILED)
		return;
	say("moved: %d", place != one);
	see("all", place, 80 * PAGE);
}

static void shrink_and_grow(void) {
	moved("shrink", one, 64, 10, 0, NULL);
	see("what is left", one, 10 * PAGE);
	char *place = moved("grow", one, 10, 64, MREMAP_MAYMOVE, NULL);
	if (place != MAP_FAILED)
		see("what came back", place, 64 * PAGE);
}

static void over_another(void) {
	see("two pages before", other + 7 * PAGE, 2 * PAGE);
	moved("move", one, 64, 64, MREMAP_MAYMOVE | MREMAP_FIXED, other);
	see("what was moved", other, 64 * PAGE);
	say("where it was: signal %d", touch(one, 0));
	void *again = mmap(one, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	result("map there again", again == MAP_FAILED ? -1 : 0);
	see("where it was", one, 64 * PAGE);
}

static void a_part(void) {
	char *to = room + 100 * PAGE;
	moved("move", one + 20 * PAGE, 10, 10, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	see("the part", to, 10 * PAGE);
	see("before it", one, 20 * PAGE);
	see("after it", one + 30 * PAGE, 34 * PAGE);
	say("where it was: signal %d", touch(one + 20 * PAGE, 0));
}

static void there_and_back(void) {
	see("some", one + 3 * PAGE, 3 * PAGE);
	moved("there", one, 64, 64, MREMAP_MAYMOVE | MREMAP_FIXED, room);
	see("some more", room + 10 * PAGE, 3 * PAGE);
	fill(room + 12 * PAGE, PAGE, 7);
	moved("back", room, 64, 64, MREMAP_MAYMOVE | MREMAP_FIXED, one);
	see("all", one, 64 * PAGE);
}

static void exchange(void) {
	see("some", one + 3 * PAGE, PAGE);
	moved("one away", one, 64, 64, MREMAP_MAYMOVE | MREMAP_FIXED, room);
	moved("other to one", other, 64, 64, MREMAP_MAYMOVE | MREMAP_FIXED, one);
	moved("one to other", room, 64, 64, MREMAP_MAYMOVE | MREMAP_FIXED, other);
	see("one", one, 64 * PAGE);
	see("other", other, 64 * PAGE);
}

static void leave_the_place(void) {
	see("some", one + 3 * PAGE, PAGE);
	moved("move", one, 64, 64, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, room);
	see("there", room, 64 * PAGE);
	see("here", one, 64 * PAGE);
	fill(one + 5 * PAGE, PAGE, 11);
	see("here now", one, 64 * PAGE);
	see("there still", room, 64 * PAGE);
}

static void see_two_moved(void) {
	see("moved", room, 64 * PAGE);
	moved("once more", room, 64, 64, MREMAP_MAYMOVE | MREMAP_FIXED, room + 200 * PAGE);
	see("moved again", room + 200 * PAGE, 64 * PAGE);
	see("other", other, 64 * PAGE);
}

static void see_two_moved_later(void) {
	in_child(see_two_moved);
	fill(room, 3 * PAGE, 5);
	see_two_moved();
}

static void before_a_fork(void) {
	moved("move", one, 64, 64, MREMAP_MAYMOVE | MREMAP_FIXED, room);
	see("some", room + 20 * PAGE, PAGE);
	in_child(see_two_moved_later);
	see("moved", room, 64 * PAGE);
	see("other", other, 64 * PAGE);
}

const struct memory_case moving_cases[] = {
	{"grow", two_ranges, grow},
	{"grow-half", half_a_range, grow},
	{"grow-in-place", half_a_range, grow_in_place},
	{"shrink-and-grow", half_a_range, shrink_and_grow},
	{"move-over-another", two_ranges, over_another},
	{"move-a-part", two_ranges, a_part},
	{"move-there-and-back", two_ranges, there_and_back},
	{"exchange", two_ranges, exchange},
	{"move-and-leave-the-place", two_ranges, leave_the_place},
	{"move-before-a-fork", two_ranges, before_a_fork},
	{NULL, NULL, NULL},
};
