/* What the cases of `memory` share: places with known bytes, and a transcript of what is found in them later. */
#pragma once

#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/types.h>

#define PAGE 4096UL

/* One thing that a process does with its memory. */
struct memory_case {
	const char *name;
	/* Before the fork. */
	void (*prepare)(void);
	/* After it. What it says must not depend on which kind of fork that was. */
	void (*act)(void);
};

/* Each file's cases; the last one has no name. */
extern const struct memory_case moving_cases[], giving_up_cases[], mapping_cases[], calling_cases[], racing_cases[], random_cases[];

/* Where files may be made, and what was said besides the case. */
extern const char *folder;
extern const char *variant;

/* Adds a line to the transcript. */
__attribute__((format(printf, 1, 2))) void say(const char *format, ...);
/* Says what the bytes are, all of them. A page that may not be read says so. */
void see(const char *what, const void *start, size_t bytes);
/* Says whether a call did what it should, and how it failed. */
void result(const char *what, long result);
/* 0, or the number of the signal that reading there (or writing the byte there back) gives. */
int touch(volatile void *place, int writing);

/* Fresh private memory of so many pages, the first of which are filled. */
char *filled(size_t pages, size_t of_them, unsigned salt);
/* Nothing but addresses that are nobody else's, to put something at. */
char *reserved(size_t pages);
void fill(void *start, size_t bytes, unsigned salt);
/* Runs a part in a child of its own and waits for its end. */
void in_child(void (*part)(void));
