/* Threads that touch memory that is not there yet while others move it, give it up and fork. Each looks for itself
 * whether what it finds is right; what is said is how often it was not, and by whom. */
#include "memory.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* How long they race. */
#define RACE_MS 400
#define PAGES 256UL
#define MOVED 48UL
#define MOVERS 3

static char *read_by_all, *moved[MOVERS], *given_up, *between, *elsewhere;
static atomic_int is_over, wrong;

static void places(void) {
	read_by_all = filled(PAGES, PAGES, 1);
	given_up = filled(PAGES, PAGES, 2);
	for (unsigned i = 0; i < MOVERS; i++)
		moved[i] = filled(MOVED, MOVED, 10 + i);
	between = filled(MOVED, MOVED, 20);
	elsewhere = reserved(MOVED + 32) + 16 * PAGE;
}

static void is_wrong(const char *what, long where) {
	if (atomic_fetch_add(&wrong, 1) < 5)
		say("%s: wrong at %ld", what, where);
}

/* The page of what is filled with a salt. */
static void fill_page(char *page, size_t number, unsigned salt) {
	for (size_t i = 0; i < PAGE; i++)
		page[i] = (char)(((number * PAGE + i + salt * 7919u) * 2654435761u) >> 13);
}

static int is_right(const char *page, size_t number, unsigned salt) {
	char expected[PAGE];
	fill_page(expected, number, salt);
	return memcmp(page, expected, PAGE) == 0;
}

static int is_zero(const char *page) {
	static const char zeros[PAGE];
	return memcmp(page, zeros, PAGE) == 0;
}

/* Threads read the same pages in the same order, or from the other end. */
static void *read_all(void *number) {
	for (size_t i = 0; i < PAGES; i++) {
		size_t page = (size_t)number % 2 ? PAGES - 1 - i : i;
		if (!is_right(read_by_all + page * PAGE, page, 1))
			is_wrong("reader", page);
	}
	return NULL;
}

/* One page here and one there, slowly enough for the others to do much. */
static void *read_some(void *number) {
	for (size_t i = 0; !is_over; i++) {
		size_t page = (i * 37 + (size_t)number * 11) % PAGES;
		if (!is_right(read_by_all + page * PAGE, page, 1))
			is_wrong("reader", page);
		if (i % 4 == 0)
			usleep(100);
	}
	return NULL;
}

/* To wherever the kernel likes, which may be where another's was. */
static void *move(void *number) {
	size_t which = (size_t)number;
	char *at = moved[which];
	size_t pages = MOVED;
	for (size_t i = 0; !is_over; i++) {
		size_t now = pages == MOVED ? MOVED + 16 : MOVED;
		char *to = mremap(at, pages * PAGE, now * PAGE, MREMAP_MAYMOVE, NULL);
		if (to == MAP_FAILED) {
			is_wrong("move", -1);
			break;
		}
		at = to;
		pages = now;
		if (now == MOVED) {
			/* Shrinking leaves it where it is. */
			to = mremap(at, pages * PAGE, pages * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
			if (to == MAP_FAILED) {
				is_wrong("move and leave", -1);
				break;
			}
			if (!is_zero(at + (i % MOVED) * PAGE))
				is_wrong("what was left", i % MOVED);
			munmap(at, pages * PAGE);
			at = to;
		}
		size_t page = i * 7 % MOVED;
		if (!is_right(at + page * PAGE, page, 10 + which))
			is_wrong("mover", page);
		if (now > MOVED && !is_zero(at + (MOVED + i % 16) * PAGE))
			is_wrong("mover's end", i % 16);
	}
	for (size_t page = 0; page < MOVED; page++)
		if (!is_right(at + page * PAGE, page, 10 + which))
			is_wrong("mover, at last", page);
	return NULL;
}

/* New memory is zeros, wherever it is. */
static void *map(void *nothing) {
	(void)nothing;
	for (size_t i = 0; !is_over; i++) {
		size_t pages = 1 + i % 64;
		char *place = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (!is_zero(place) || !is_zero(place + (pages - 1) * PAGE))
			is_wrong("mapped", i);
		memset(place, 1, pages * PAGE);
		munmap(place, pages * PAGE);
	}
	return NULL;
}

/* Children see what does not move, and some of it for the first time. */
static void *fork_and_look(void *step) {
	for (size_t i = 0; !is_over; i++) {
		pid_t child = fork();
		if (child == 0) {
			int bad = 0;
			for (size_t page = i % (size_t)step; page < PAGES; page += (size_t)step)
				bad += !is_right(read_by_all + page * PAGE, page, 1);
			_exit(bad ? 1 : 0);
		}
		int status = -1;
		if (waitpid(child, &status, 0) != child || status != 0)
			is_wrong("child", status);
	}
	return NULL;
}

/* What was given up never comes back. */
static void *give_up(void *nothing) {
	(void)nothing;
	for (size_t i = 0; !is_over; i++) {
		size_t page = i % (PAGES - 8);
		if (madvise(given_up + page * PAGE, 8 * PAGE, MADV_DONTNEED) != 0)
			is_wrong("give up", page);
		for (size_t k = 0; k < 8; k++)
			if (!is_zero(given_up + (page + k) * PAGE))
				is_wrong("given up", page + k);
		if (i % 8 == 0)
			usleep(50);
	}
	return NULL;
}

static void *read_given_up(void *number) {
	for (size_t i = (size_t)number; !is_over; i++) {
		size_t page = i * 13 % PAGES;
		char copy[PAGE], expected[PAGE];
		memcpy(copy, given_up + page * PAGE, PAGE);
		/* It may go while it is copied, and does not come back. */
		size_t zeros = 0;
		while (zeros < PAGE && copy[PAGE - 1 - zeros] == 0)
			zeros++;
		if (zeros < PAGE)
			fill_page(expected, page, 2);
		if (zeros < PAGE && memcmp(copy, expected, PAGE - zeros) != 0)
			is_wrong("half given up", page);
	}
	return NULL;
}

/* There and back, with nothing in the other place. */
static void *swing(void *nothing) {
	(void)nothing;
	char *at = between, *other = elsewhere;
	for (size_t i = 0; !is_over; i++) {
		if (mremap(at, MOVED * PAGE, MOVED * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, other) == MAP_FAILED)
			is_wrong("swing", -1);
		char *was = at;
		at = other;
		other = was;
		if (i % 64 == 0 && !is_right(at + i / 64 % MOVED * PAGE, i / 64 % MOVED, 20))
			is_wrong("swung", i / 64 % MOVED);
	}
	return NULL;
}

/* It is either here or there, and right where it is. */
static void *fork_and_find(void *nothing) {
	(void)nothing;
	for (size_t i = 0; !is_over; i++) {
		pid_t child = fork();
		if (child == 0) {
			int found = 0;
			char *all[] = {between, elsewhere};
			for (int k = 0; k < 2; k++) {
				if (touch(all[k] + 3 * PAGE, 0) != 0)
					continue;
				found++;
				for (size_t page = i % 5; page < MOVED; page += 5)
					if (!is_right(all[k] + page * PAGE, page, 20))
						_exit(2);
			}
			_exit(found == 1 ? 0 : 1);
		}
		int status = -1;
		if (waitpid(child, &status, 0) != child || status != 0)
			is_wrong("child", status);
	}
	return NULL;
}

#define UNMAPPED 64
#define UNMAPPED_PAGES 16UL

static char *unmapped[UNMAPPED];
static pthread_barrier_t together;

static void places_to_unmap(void) {
	for (unsigned i = 0; i < UNMAPPED; i++)
		unmapped[i] = filled(UNMAPPED_PAGES, UNMAPPED_PAGES, 30 + i);
}

/* What is there is right; who waits for what is not there any more waits no longer. */
static void *read_unmapped(void *nothing) {
	for (unsigned i = 0; i < UNMAPPED; i++) {
		pthread_barrier_wait(&together);
		for (size_t page = 0; page < UNMAPPED_PAGES; page++)
			if (touch(unmapped[i] + page * PAGE, 0) != 0)
				break;
	}
	return nothing;
}

static void unmap_what_is_read(void) {
	pthread_t reader;
	pthread_barrier_init(&together, NULL, 2);
	pthread_create(&reader, NULL, read_unmapped, NULL);
	for (unsigned i = 0; i < UNMAPPED; i++) {
		pthread_barrier_wait(&together);
		for (volatile unsigned wait = 0; wait < i % 16 * 400; wait++) {}
		if (munmap(unmapped[i], UNMAPPED_PAGES * PAGE) != 0)
			say("unmap: %m");
	}
	pthread_join(reader, NULL);
	say("all is over");
}

struct runner {
	void *(*run)(void *);
	size_t argument;
};

static void race(const struct runner *runners) {
	pthread_t threads[16];
	size_t count = 0;
	for (; runners[count].run; count++)
		if (pthread_create(&threads[count], NULL, runners[count].run, (void *)runners[count].argument) != 0)
			say("no thread");
	struct timespec time = {.tv_nsec = RACE_MS * 1000000};
	nanosleep(&time, NULL);
	is_over = 1;
	for (size_t i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	say("wrong: %d", wrong);
}

static void same_pages(void) {
	static const struct runner runners[] = {{read_all, 0}, {read_all, 1}, {read_all, 2}, {read_all, 3}, {read_all, 4}, {read_all, 5}, {NULL, 0}};
	race(runners);
}

static void moves(void) {
	static const struct runner runners[] = {{move, 0}, {move, 1}, {move, 2}, {map, 0}, {read_some, 0}, {read_some, 1}, {NULL, 0}};
	race(runners);
}

static void forks(void) {
	static const struct runner runners[] = {{fork_and_look, 7}, {fork_and_look, 3}, {read_some, 0}, {map, 0}, {move, 0}, {NULL, 0}};
	race(runners);
}

static void giving_up(void) {
	static const struct runner runners[] = {{give_up, 0}, {read_given_up, 0}, {read_given_up, 100}, {read_some, 0}, {fork_and_look, 50}, {NULL, 0}};
	race(runners);
}

static void forks_and_moves(void) {
	static const struct runner runners[] = {{swing, 0}, {fork_and_find, 0}, {read_some, 0}, {NULL, 0}};
	race(runners);
}

const struct memory_case racing_cases[] = {
	{"race-for-the-same-pages", places, same_pages},
	{"race-with-moves", places, moves},
	{"race-with-forks", places, forks},
	{"race-with-giving-up", places, giving_up},
	{"race-of-forks-and-moves", places, forks_and_moves},
	{"race-with-unmapping", places_to_unmap, unmap_what_is_read},
	{NULL, NULL, NULL},
};
