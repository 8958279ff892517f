// Has pages of a known pattern, every seventh of them zeros. Where it finds itself forked from outside it looks at each
// word of them, the first half of the pages in order and the other scattered, and says whether they are right. Where it
// is given the name of a file it waits for that before it looks.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 512, WORDS = PAGE / 8 };

static uint64_t pattern(uint64_t word) { return word / WORDS % 7 == 0 ? 0 : (word + 1) * 0x9e3779b97f4a7c15ull; }

static void look(const uint64_t *memory, uint64_t page) {
	for (uint64_t word = page * WORDS; word < (page + 1) * WORDS; word++)
		if (memory[word] != pattern(word)) {
			printf("wrong: word %lu is %#lx\n", word, memory[word]);
			fflush(stdout);
			_exit(1);
		}
}

int main(int argc, char **argv) {
	uint64_t *memory = mmap(0, (size_t)PAGE * PAGES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return 2;
	for (uint64_t word = 0; word < (uint64_t)PAGES * WORDS; word++)
		((volatile uint64_t *)memory)[word] = pattern(word);
	pid_t first = getpid();
	printf("ready\n");
	fflush(stdout);
	while (getpid() == first)
		usleep(500);
	while (argc > 1 && access(argv[1], F_OK) != 0)
		usleep(500);
	for (uint64_t page = 0; page < PAGES / 2; page++)
		look(memory, page);
	for (uint64_t page = 0; page < PAGES / 2; page++)
		look(memory, PAGES / 2 + page * 37 % (PAGES / 2));
	printf("right\n");
	fflush(stdout);
	return 0;
}
