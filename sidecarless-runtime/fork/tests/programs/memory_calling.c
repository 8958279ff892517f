/* System calls that are given memory that is not there yet. */
#include "memory.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static char *one, *other;

static void two_ranges(void) {
	one = filled(128, 128, 1);
	other = filled(128, 128, 2);
}

static void see_all(void) {
	see("one", one, 128 * PAGE);
	see("other", other, 128 * PAGE);
}

static int new_file(int flags) {
	char name[512];
	snprintf(name, sizeof name, "%s/written", folder);
	int file = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | flags, 0600);
	unlink(name);
	return file;
}

static void read_and_write(void) {
	int file = new_file(0);
	say("write: %zd", write(file, one + 3 * PAGE + 100, 10 * PAGE));
	say("read: %zd", pread(file, other + 5 * PAGE + 50, 10 * PAGE, 0));
	struct iovec from[] = {{one + 50 * PAGE, 3 * PAGE}, {one + 20 * PAGE + 5, 10}, {other + 60 * PAGE + 9, 2 * PAGE}};
	struct iovec to[] = {{other + 80 * PAGE + 7, 4 * PAGE}, {one + 70 * PAGE, PAGE + 100}};
	say("writev: %zd", pwritev(file, from, 3, 0));
	say("readv: %zd", preadv(file, to, 2, 0));
	see_all();
	close(file);
}

static void read_directly(void) {
	int file = new_file(O_DIRECT);
	/* Some file systems do not. */
	if (file < 0)
		file = new_file(0);
	say("write: %zd", pwrite(file, one + 3 * PAGE, 10 * PAGE, 0));
	say("read: %zd", pread(file, other + 5 * PAGE, 10 * PAGE, 0));
	see_all();
	close(file);
}

/* Also what says where the memory is, is not there yet. */
static void send_and_receive(void) {
	int pair[2];
	int *passed = (int *)(one + 100 * PAGE);
	result("pair", socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	struct msghdr *out = (struct msghdr *)(one + 90 * PAGE), *in = (struct msghdr *)(other + 90 * PAGE);
	struct iovec *from = (struct iovec *)(one + 92 * PAGE), *to = (struct iovec *)(other + 92 * PAGE);
	char *control = one + 94 * PAGE;
	memset(out, 0, sizeof *out);
	memset(in, 0, sizeof *in);
	*from = (struct iovec){one + 10 * PAGE + 33, 3 * PAGE};
	*to = (struct iovec){other + 10 * PAGE + 44, 3 * PAGE};
	out->msg_iov = from, out->msg_iovlen = 1;
	in->msg_iov = to, in->msg_iovlen = 1;
	struct cmsghdr *header = (struct cmsghdr *)control;
	*header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
	memcpy(CMSG_DATA(header), pair, sizeof(int));
	out->msg_control = control, out->msg_controllen = CMSG_SPACE(sizeof(int));
	in->msg_control = other + 96 * PAGE, in->msg_controllen = 128;
	say("sendmsg: %zd", sendmsg(pair[0], out, 0));
	say("recvmsg: %zd", recvmsg(pair[1], in, MSG_WAITALL));
	memcpy(passed, CMSG_DATA((struct cmsghdr *)in->msg_control), sizeof(int));
	result("use what was passed", fcntl(*passed, F_GETFD));
	close(*passed);
	memset(one + 90 * PAGE, 0, 11 * PAGE);
	memset(other + 90 * PAGE, 0, 8 * PAGE);
	see_all();
}

static void wait_on_a_word(void) {
	uint32_t *word = (uint32_t *)(one + 30 * PAGE);
	result("wait", syscall(SYS_futex, word, FUTEX_WAIT, 0x12345, NULL, NULL, 0));
	say("wake: %ld", syscall(SYS_futex, one + 40 * PAGE, FUTEX_WAKE, 1, NULL, NULL, 0));
	struct timespec *timeout = (struct timespec *)(other + 8 * PAGE + 64);
	memset(timeout, 0, sizeof *timeout);
	uint32_t was = *(uint32_t *)(other + 9 * PAGE);
	result("wait in time", syscall(SYS_futex, other + 9 * PAGE, FUTEX_WAIT_PRIVATE, was, timeout, NULL, 0));
	say("change: %ld", syscall(SYS_futex, one + 50 * PAGE, FUTEX_WAKE_OP, 1, 1, other + 50 * PAGE, FUTEX_OP(FUTEX_OP_SET, 77, FUTEX_OP_CMP_EQ, 1)));
	see_all();
}

static void ask_for_much(void) {
	say("names: %d", getcwd(one + PAGE + 11, 2 * PAGE) != NULL);
	say("random: %zd", getrandom(one + 4 * PAGE + 20, PAGE, 0));
	struct pollfd *polled = (struct pollfd *)(other + PAGE - sizeof *polled);
	polled[0] = polled[1] = (struct pollfd){.fd = -1, .events = POLLIN};
	say("poll: %d", poll(polled, 2, 0));
	say("residence: %d", mincore(one, 128 * PAGE, (unsigned char *)other + 20 * PAGE));
	memset(one + PAGE, 0, 5 * PAGE);
	memset(other + 20 * PAGE, 0, PAGE);
	result("write nothing", write(1, NULL, 0) == 0 ? 0 : -1);
	int ends[2];
	result("pipe", pipe2((int *)(one + 60 * PAGE), O_CLOEXEC));
	memcpy(ends, one + 60 * PAGE, sizeof ends);
	memset(one + 60 * PAGE, 0, PAGE);
	struct iovec from = {one + 61 * PAGE + 100, 2 * PAGE};
	say("vmsplice: %zd", vmsplice(ends[1], &from, 1, 0));
	say("read: %zd", read(ends[0], other + 61 * PAGE + 3, 2 * PAGE));
	see_all();
}

static void peek(void) {
	struct iovec from = {one + 7 * PAGE + 1, 3 * PAGE}, to = {other + 9 * PAGE, 3 * PAGE};
	say("peek: %zd", process_vm_readv(getppid(), &to, 1, &from, 1, 0));
	see("peeked", other + 8 * PAGE, 5 * PAGE);
}

static void look_into_another(void) {
	in_child(peek);
	see_all();
}

static char output[16 * PAGE];

/* What a program prints. */
static void say_output(const char *what, int from, pid_t child) {
	size_t got = 0;
	ssize_t more;
	while ((more = read(from, output + got, sizeof output - got)) > 0)
		got += more;
	int status = -1;
	close(from);
	say("%s: %d, %zu bytes, status %x", what, child > 0 && waitpid(child, &status, 0) == child, got, status);
	see("output", output, got);
}

/* Text that ends, where there was something else. */
static char *text(char *place, const char *format, unsigned number) {
	sprintf(place, format, number);
	return place;
}

static char **arguments;

static void words(void) {
	two_ranges();
	/* Each word is in a page of its own, and so is the list. */
	arguments = (char **)(one + 100 * PAGE);
	arguments[0] = text(one + 101 * PAGE, "echo", 0);
	for (unsigned i = 1; i < 20; i++)
		arguments[i] = text(one + (101 + i) * PAGE + 7 * i, "word-%u", i);
	arguments[20] = NULL;
	text(other + 3 * PAGE, "/bin/echo", 0);
}

static void become_another(void) {
	int ends[2];
	result("pipe", pipe2(ends, O_CLOEXEC));
	pid_t child = fork();
	if (child == 0) {
		dup2(ends[1], 1);
		execve(other + 3 * PAGE, arguments, environ);
		_exit(9);
	}
	close(ends[1]);
	say_output("fork and exec", ends[0], child);

	result("pipe", pipe2(ends, O_CLOEXEC));
	child = vfork();
	if (child == 0) {
		dup2(ends[1], 1);
		execve(other + 3 * PAGE, arguments, environ);
		_exit(9);
	}
	close(ends[1]);
	say_output("vfork and exec", ends[0], child);

	result("pipe", pipe2(ends, O_CLOEXEC));
	posix_spawn_file_actions_t actions;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
	int error = posix_spawn(&child, other + 3 * PAGE, &actions, NULL, arguments, environ);
	say("spawned: %d", error);
	close(ends[1]);
	say_output("spawn", ends[0], child);
	say("system: %d", system("exit 7"));
	FILE *shell = popen("echo from a shell", "r");
	say("popen: %d", shell && fgets(output, sizeof output, shell) && strcmp(output, "from a shell\n") == 0);
	if (shell)
		pclose(shell);
	see_all();
}

static void *volatile handled_at;

static void handle(int signal) {
	(void)signal;
	char here[3 * PAGE];
	memset(here, 1, sizeof here);
	handled_at = __builtin_frame_address(0);
}

static void other_stack(void) {
	two_ranges();
	stack_t stack = {.ss_sp = one, .ss_size = 64 * PAGE};
	sigaltstack(&stack, NULL);
	struct sigaction action = {.sa_handler = handle, .sa_flags = SA_ONSTACK};
	sigaction(SIGUSR1, &action, NULL);
}

static void take_a_signal(void) {
	raise(SIGUSR1);
	char *at = handled_at;
	say("on its stack: %d", at > one && at < one + 64 * PAGE);
	see("the other half", one + 64 * PAGE, 64 * PAGE);
	see("other", other, 128 * PAGE);
}

const struct memory_case calling_cases[] = {
	{"read-and-write", two_ranges, read_and_write},
	{"read-directly", two_ranges, read_directly},
	{"send-and-receive", two_ranges, send_and_receive},
	{"wait-on-a-word", two_ranges, wait_on_a_word},
	{"ask-for-much", two_ranges, ask_for_much},
	{"look-into-another", two_ranges, look_into_another},
	{"become-another", words, become_another},
	{"take-a-signal", other_stack, take_a_signal},
	{NULL, NULL, NULL},
};
