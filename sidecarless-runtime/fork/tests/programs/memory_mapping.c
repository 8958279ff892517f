/* Memory that is unmapped and mapped anew, that grows by itself, and files in memory. */
#include "memory.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *one, *other;

static void two_ranges(void) {
	one = filled(64, 64, 1);
	other = filled(64, 64, 2);
}

static void see_all(void) {
	see("one", one, 64 * PAGE);
	see("other", other, 64 * PAGE);
}

static void *map_at(char *place, size_t pages) {
	return mmap(place, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static void unmap(void) {
	see("some", one + 8 * PAGE, 4 * PAGE);
	result("unmap a part", munmap(one + 10 * PAGE, 20 * PAGE));
	see("all", one, 64 * PAGE);
	result("map in a part of the hole", map_at(one + 12 * PAGE, 5) == MAP_FAILED ? -1 : 0);
	see("all", one, 64 * PAGE);
	fill(one + 13 * PAGE, PAGE, 9);
	result("map over some of both", map_at(one + 15 * PAGE, 20) == MAP_FAILED ? -1 : 0);
	see("all", one, 64 * PAGE);
	in_child(see_all);
	result("unmap all", munmap(one, 64 * PAGE));
	say("read: %d", touch(one + 40 * PAGE, 0));
	result("map all", map_at(one, 64) == MAP_FAILED ? -1 : 0);
	see_all();
}

static char *heap;

static void a_heap(void) {
	heap = sbrk(0);
	heap = (char *)(((uintptr_t)heap + PAGE - 1) & ~(PAGE - 1));
	if (brk(heap + 100 * PAGE) != 0)
		_exit(4);
	fill(heap, 80 * PAGE, 3);
}

static void see_heap(void) {
	see("heap", heap, 100 * PAGE);
}

static void move_the_break(void) {
	say("the break is where it was: %d", sbrk(0) == heap + 100 * PAGE);
	see("some", heap + 50 * PAGE, PAGE);
	result("grow", brk(heap + 150 * PAGE));
	see("grown", heap, 150 * PAGE);
	fill(heap + 120 * PAGE, 2 * PAGE, 5);
	result("shrink", brk(heap + 40 * PAGE));
	see("shrunk", heap, 40 * PAGE);
	say("beyond: %d", touch(heap + 60 * PAGE, 0));
	result("grow again", brk(heap + 100 * PAGE));
	see("grown again", heap, 100 * PAGE);
	in_child(see_heap);
	void *some = malloc(10), *much = malloc(1 << 22);
	say("malloc: %d %d", some != NULL, much != NULL);
	memset(much, 1, 1 << 22);
	see("much", much, 1 << 22);
	free(much);
	free(some);
}

__attribute__((noinline)) static unsigned long deep(unsigned depth) {
	volatile unsigned char room[8 * PAGE];
	for (size_t i = 0; i < sizeof room; i += 512)
		room[i] = (unsigned char)(depth + i);
	unsigned long below = depth ? deep(depth - 1) : 0;
	for (size_t i = 0; i < sizeof room; i += 512)
		below = below * 31 + room[i];
	return below;
}

static void *deep_in_a_thread(void *nothing) {
	(void)nothing;
	say("in a thread: %lx", deep(150));
	return NULL;
}

static void deep_in_a_child(void) {
	say("in a child: %lx", deep(180));
}

static void nothing(void) {}

static void grow_stacks(void) {
	say("deep: %lx", deep(10));
	say("deeper: %lx", deep(200));
	in_child(deep_in_a_child);
	pthread_t threads[4];
	for (int i = 0; i < 4; i++) {
		pthread_create(&threads[i], NULL, deep_in_a_thread, NULL);
		pthread_join(threads[i], NULL);
	}
}

#define FILE_PAGES 32UL

static char name[512];
static int file;
static char *private, *shared;

static void write_file(void) {
	static char bytes[FILE_PAGES * PAGE];
	fill(bytes, sizeof bytes, 4);
	if (ftruncate(file, sizeof bytes) != 0 || pwrite(file, bytes, sizeof bytes, 0) != sizeof bytes)
		_exit(4);
}

static void files(void) {
	snprintf(name, sizeof name, "%s/mapped", folder);
	file = open(name, O_RDWR | O_CREAT, 0600);
	write_file();
	private = mmap(NULL, 2 * FILE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	shared = mmap(NULL, 2 * FILE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	/* Some pages of the private one are not the file's. */
	fill(private + 5 * PAGE, PAGE, 7);
	fill(private + 10 * PAGE, 3 * PAGE, 8);
	private[20 * PAGE] = 1;
}

/* A file that holds code, too, as libraries do. */
static void a_library(void) {
	files();
	if (mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0) == MAP_FAILED)
		_exit(4);
}

static void see_private(void) {
	see("private", private, FILE_PAGES * PAGE);
}

static void change_private(void) {
	see("private", private, FILE_PAGES * PAGE);
	fill(private + 7 * PAGE, PAGE, 9);
	fill(private + 11 * PAGE, PAGE, 9);
	see("changed", private, FILE_PAGES * PAGE);
	in_child(nothing);
	see("the file", shared, FILE_PAGES * PAGE);
	say("beyond the file: %d", touch(private + FILE_PAGES * PAGE, 0));
}

static void give_up_private(void) {
	result("give up", madvise(private + 6 * PAGE, 20 * PAGE, MADV_DONTNEED));
	see("given up", private, FILE_PAGES * PAGE);
	fill(private + 11 * PAGE, PAGE, 9);
	see("changed", private, FILE_PAGES * PAGE);
	result("give up again", madvise(private, FILE_PAGES * PAGE, MADV_DONTNEED));
	see("given up again", private, FILE_PAGES * PAGE);
	fill(shared + 11 * PAGE, PAGE, 3);
	see("changed by the file", private, FILE_PAGES * PAGE);
	write_file();
}

/* Whether it sees what becomes of the file afterwards is left open by POSIX. */
static void give_up_library(void) {
	result("give up", madvise(private + 6 * PAGE, 20 * PAGE, MADV_DONTNEED));
	see("given up", private, FILE_PAGES * PAGE);
	fill(private + 11 * PAGE, PAGE, 9);
	see("changed", private, FILE_PAGES * PAGE);
	in_child(see_private);
	result("give up again", madvise(private, FILE_PAGES * PAGE, MADV_DONTNEED));
	see("given up again", private, FILE_PAGES * PAGE);
}

static void move_private(void) {
	char *room = reserved(1024);
	char *place = mremap(private + 4 * PAGE, 20 * PAGE, 20 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, room);
	result("move", place == MAP_FAILED ? -1 : 0);
	if (place != MAP_FAILED)
		see("moved", place, 20 * PAGE);
	see("the rest", private + 24 * PAGE, (FILE_PAGES - 24) * PAGE);
	result("unmap", munmap(private, FILE_PAGES * PAGE));
}

static void change_shared(void) {
	static char bytes[PAGE];
	see("shared", shared, FILE_PAGES * PAGE);
	fill(shared + 3 * PAGE, 2 * PAGE, 5);
	result("read the file", pread(file, bytes, PAGE, 4 * PAGE) == (ssize_t)PAGE ? 0 : -1);
	see("in the file", bytes, PAGE);
	fill(bytes, PAGE, 6);
	result("write the file", pwrite(file, bytes, PAGE, 9 * PAGE) == (ssize_t)PAGE ? 0 : -1);
	see("in memory", shared, FILE_PAGES * PAGE);
	see("in private memory", private, FILE_PAGES * PAGE);
	say("beyond the file: %d", touch(shared + FILE_PAGES * PAGE, 0));
	result("grow the file", ftruncate(file, (FILE_PAGES + 4) * PAGE));
	result("write its end", pwrite(file, bytes, PAGE, (FILE_PAGES + 2) * PAGE) == (ssize_t)PAGE ? 0 : -1);
	see("grown", shared, (FILE_PAGES + 6) * PAGE);
	see("grown, private", private, (FILE_PAGES + 6) * PAGE);
	result("synchronise", msync(shared, FILE_PAGES * PAGE, MS_SYNC));
	result("give up", madvise(shared, FILE_PAGES * PAGE, MADV_DONTNEED));
	see("given up", shared, FILE_PAGES * PAGE);
	write_file();
}

static void shorten_the_file(void) {
	see("some", private + 10 * PAGE, PAGE);
	result("shorten", ftruncate(file, 12 * PAGE));
	see("shared", shared, FILE_PAGES * PAGE);
	see("private", private, FILE_PAGES * PAGE);
	write_file();
	see("long again", private, FILE_PAGES * PAGE);
}

static void a_file_without_a_name(void) {
	files();
	munmap(shared, 2 * FILE_PAGES * PAGE);
	close(file);
	unlink(name);
}

static void without_a_name(void) {
	see_private();
	fill(private + 11 * PAGE, PAGE, 9);
	in_child(see_private);
	see_private();
}

const struct memory_case mapping_cases[] = {
	{"unmap", two_ranges, unmap},
	{"move-the-break", a_heap, move_the_break},
	{"grow-stacks", nothing, grow_stacks},
	{"change-a-private-file", files, change_private},
	{"give-up-a-private-file", files, give_up_private},
	{"change-a-library", a_library, change_private},
	{"give-up-a-library", a_library, give_up_library},
	{"move-a-private-file", files, move_private},
	{"change-a-shared-file", files, change_shared},
	{"shorten-a-file", files, shorten_the_file},
	{"a-file-without-a-name", a_file_without_a_name, without_a_name},
	{NULL, NULL, NULL},
};
