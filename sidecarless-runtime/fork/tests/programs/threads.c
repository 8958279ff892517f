/* A process with four threads that count, one of them under a recursive mutex that it holds most of the time. It
 * writes "COUNT SUM" to FOLDER/PID, where COUNT is the least of theirs and PID its number as the host knows it. */
#include "counts.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t lock;
static volatile unsigned long counts[4];
static __thread unsigned long own;
static char data[8 << 20];

static void *count(void *place) {
	/* Lives in a register across the fork. */
	double half = 0.5;
	for (;;) {
		own++;
		if (place == (void *)1) {
			pthread_mutex_lock(&lock);
			pthread_mutex_lock(&lock);
		}
		half = half * 0.5 + 0.25;
		if (fabs(half - 0.5) < 1e-9)
			counts[(long)place] = own;
		usleep(1000);
		if (place == (void *)1) {
			pthread_mutex_unlock(&lock);
			pthread_mutex_unlock(&lock);
		}
	}
	return NULL;
}

int main(int argc, char **argv) {
	pthread_mutexattr_t attribute;
	pthread_mutexattr_init(&attribute);
	pthread_mutexattr_settype(&attribute, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&lock, &attribute);
	for (size_t i = 0; i < sizeof data; i++)
		data[i] = (char)(i * 2654435761u >> 24);
	for (long i = 1; i < 4; i++) {
		pthread_t thread;
		pthread_create(&thread, NULL, count, (void *)i);
	}
	for (;;) {
		unsigned long sum = 0;
		for (size_t i = 0; i < sizeof data; i++)
			sum = sum * 31 + (unsigned char)data[i];
		counts[0]++;
		unsigned long least = counts[0];
		for (int i = 1; i < 4; i++)
			least = counts[i] < least ? counts[i] : least;
		if (!tell(argv[argc - 1], least, sum))
			return 1;
		usleep(1000);
	}
}
