/* Preloaded into the service: while the file $NEWSFEED_TEST_FAULT exists, every sync fails with EIO. */
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int failing(void) {
  const char *fault = getenv("NEWSFEED_TEST_FAULT");
  return fault && access(fault, F_OK) == 0;
}

int fsync(int fd) {
  if (failing()) {
    errno = EIO;
    return -1;
  }
  return syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
  if (failing()) {
    errno = EIO;
    return -1;
  }
  return syscall(SYS_fdatasync, fd);
}
