// Has memory of a known pattern. Where it finds itself forked from outside it forks once more, and that child waits for
// the file `go` before it looks at the memory, page by page.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 4096 };

static uint64_t pattern(uint64_t page) { return (page + 1) * 0x9e3779b97f4a7c15ull; }

static char path[4096];
static char *in(const char *folder, const char *name) {
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void say(const char *folder, const char *name, long number, const char *text) {
    char new[4096];
    snprintf(new, sizeof new, "%s/%s.new", folder, name);
    FILE *file = fopen(new, "w");
    fprintf(file, "%ld %s", number, text);
    fclose(file);
    rename(new, in(folder, name));
}

int main(int argc, char **argv) {
    const char *folder = argv[1];
    uint64_t *memory = mmap(0, (size_t)PAGE * PAGES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (uint64_t page = 0; page < PAGES; page++) memory[page * PAGE / 8] = pattern(page);
    char own[32];
    snprintf(own, sizeof own, "%d", getpid());
    pid_t first = getpid();
    for (long count = 1; getpid() == first; count++) {
        say(folder, own, count, "-");
        usleep(2000);
    }
    if (fork() != 0)
        for (;;) pause();
    say(folder, "grandchild", getpid(), "-");
    while (access(in(folder, "go"), F_OK) != 0) usleep(1000);
    for (uint64_t page = 0; page < PAGES; page++)
        if (memory[page * PAGE / 8] != pattern(page)) {
            say(folder, "verdict", (long)page, "wrong");
            return 1;
        }
    say(folder, "verdict", 0, "right");
    return 0;
}
