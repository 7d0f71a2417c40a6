/* The floor under two hops: SIZE bytes through a relay process to a backend process and back, over socketpairs.
   Nothing is looked at on the way. Prints the median in microseconds.

       hops COUNT SIZE */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 65536, WARM_UP = 500 };
static char buffer[MOST];

static ssize_t pass(int from, int to) {
  ssize_t size = read(from, buffer, MOST);
  if (size <= 0 || write(to, buffer, size) != size) _exit(0);
  return size;
}

static pid_t start(int from, int to, int back_from, int back_to) {
  pid_t pid = fork();
  if (pid) return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (;;) {
    pass(from, to);
    if (back_from >= 0) pass(back_from, back_to);
  }
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

int main(int count_of, char **arguments) {
  if (count_of != 3) return 2;
  int count = atoi(arguments[1]), size = atoi(arguments[2]), near[2], far[2];
  double *took = malloc((count > 0 ? count : 1) * sizeof *took);
  if (count <= 0 || size <= 0 || size > MOST || !took) return 2;
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, near) || socketpair(AF_UNIX, SOCK_STREAM, 0, far)) return 1;
  pid_t backend = start(far[1], far[1], -1, -1);
  pid_t relay = start(near[1], far[0], far[0], near[1]);
  for (int number = -WARM_UP; number < count; number++) {
    double began = now();
    if (write(near[0], buffer, size) != size || read(near[0], buffer, MOST) != size) return 1;
    if (number >= 0) took[number] = now() - began;
  }
  qsort(took, count, sizeof *took, ascending);
  printf("%.2f\n", took[count / 2]);
  kill(relay, SIGKILL);
  kill(backend, SIGKILL);
  return 0;
}
