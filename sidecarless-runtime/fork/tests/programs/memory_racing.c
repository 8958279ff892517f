#include "memory.h"
const struct memory_case racing_cases[] = {{NULL, NULL, NULL}};
const struct memory_case random_cases[] = {{NULL, NULL, NULL}};
