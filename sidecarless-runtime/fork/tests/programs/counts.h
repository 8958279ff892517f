/* How a program of the tests says how far it has come. */
#include <stdio.h>
#include <unistd.h>

enum { NUMBER_BYTES = 32 };

/* The process's number as the host knows it. 0: it is not to be had. */
static int number(char self[NUMBER_BYTES]) {
	ssize_t bytes = readlink("/proc/self", self, NUMBER_BYTES - 1);
	self[bytes < 0 ? 0 : bytes] = 0;
	return bytes > 0;
}

/* Writes "COUNT WHAT" to FOLDER/PID, all at once. 0: that failed. */
static int tell(const char *folder, unsigned long count, unsigned long what) {
	char self[NUMBER_BYTES], name[256], new_name[sizeof name + 4];
	if (!number(self))
		return 0;
	snprintf(name, sizeof name, "%s/%s", folder, self);
	snprintf(new_name, sizeof new_name, "%s.new", name);
	FILE *file = fopen(new_name, "w");
	if (!file)
		return 0;
	fprintf(file, "%lu %lu", count, what);
	if (fclose(file) != 0)
		return 0;
	/* A child that was forked in between has the same file, and one of both finds it renamed. */
	rename(new_name, name);
	return 1;
}
