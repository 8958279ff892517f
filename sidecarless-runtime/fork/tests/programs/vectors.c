/* A process that has numbers in vector registers while it sleeps and while it computes. Where the processor has AMX it
 * may use that, and does once as each process. It writes "COUNT WRONG" to FOLDER/PID, where PID is its number as the
 * host knows it and WRONG is how often a register was not what it had been. */
#include "counts.h"

#include <cpuid.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

enum { TILES = 18, ARCH_REQ_XCOMP_PERM = 0x1023, TURNS = 1000000 };

static const struct timespec pause_time = {0, 3000000};
static unsigned char expected[64], seen[64];

#define SLEEP_AND_SPIN \
	"mov %[number], %%eax\n\tmov %[time], %%rdi\n\txor %%esi, %%esi\n\tsyscall\n\t" \
	"mov %[turns], %%ecx\n\t1: dec %%ecx\n\tjnz 1b\n\t"
#define OPERANDS \
	: : [number] "i"(SYS_nanosleep), [time] "r"(&pause_time), [turns] "i"(TURNS), \
	    [expected] "r"(expected), [seen] "r"(seen) \
	: "rax", "rcx", "rdi", "rsi", "r11", "memory"

static size_t in_sse(void) {
	__asm__ volatile("movdqu (%[expected]), %%xmm7\n\t" SLEEP_AND_SPIN "movdqu %%xmm7, (%[seen])" OPERANDS, "xmm7");
	return 16;
}

__attribute__((target("avx"))) static size_t in_avx(void) {
	__asm__ volatile("vmovdqu (%[expected]), %%ymm7\n\t" SLEEP_AND_SPIN "vmovdqu %%ymm7, (%[seen])" OPERANDS, "xmm7");
	return 32;
}

__attribute__((target("avx512f"))) static size_t in_avx512(void) {
	__asm__ volatile("vmovdqu64 (%[expected]), %%zmm20\n\t" SLEEP_AND_SPIN "vmovdqu64 %%zmm20, (%[seen])" OPERANDS,
			 "xmm20");
	return 64;
}

static int has_tiles(void) {
	unsigned a, b, c, d;
	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && d >> 24 & 1 && !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILES);
}

static void use_a_tile(void) {
	/* One tile with a row of four bytes. */
	unsigned char configuration[64] = {[0] = 1, [16] = 4, [48] = 1};
	__asm__ volatile("ldtilecfg (%0)\n\ttilezero %%tmm0\n\ttilerelease" : : "r"(configuration) : "memory");
}

int main(int argc, char **argv) {
	char last[NUMBER_BYTES] = "";
	unsigned long wrong = 0;
	int tiles = has_tiles();
	for (int i = 0; i < 64; i++)
		expected[i] = i * 3 + 1;
	for (unsigned long count = 1;; count++) {
		size_t bytes = in_sse();
		if (count % 2 && __builtin_cpu_supports("avx"))
			bytes = in_avx();
		else if (__builtin_cpu_supports("avx512f"))
			bytes = in_avx512();
		wrong += memcmp(seen, expected, bytes) != 0;
		memset(seen, 0, sizeof seen);
		char self[NUMBER_BYTES];
		if (!number(self))
			return 1;
		if (tiles && strcmp(self, last) != 0)
			use_a_tile();
		strcpy(last, self);
		if (!tell(argv[argc - 1], count, wrong))
			return 1;
	}
}
