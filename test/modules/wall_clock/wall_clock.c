/*-------------------------------------------------------------------------
 *
 * wall_clock.c
 *		A server whose clock can be set, for tests.
 *
 * To be preloaded (LD_PRELOAD).  The file that WALL_CLOCK names has a number of 8
 * bytes: how many seconds the clock of the server is ahead.  It is mapped, so a
 * change is there for all processes at once.  The monotonic clock is left alone,
 * as it is when somebody sets the time.
 *
 *-------------------------------------------------------------------------
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

typedef int (*Clock) (struct timeval *tv, void *tz);

static const volatile int64_t *ahead = NULL;
static Clock true_clock = NULL;

/*
 * Map the file, once for the process and those forked from it.
 */
__attribute__((constructor))
static void
map_file(void)
{
	const char *path = getenv("WALL_CLOCK");
	int			fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	void	   *at;

	true_clock = (Clock) dlsym(RTLD_NEXT, "gettimeofday");
	if (fd < 0)
		return;
	at = mmap(NULL, sizeof(*ahead), PROT_READ, MAP_SHARED, fd, 0);
	if (at != MAP_FAILED)
		ahead = at;
	close(fd);
}

/*
 * The time by this clock.
 */
int
gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
	int			result = true_clock(tv, tz);

	if (ahead != NULL)
		tv->tv_sec += *ahead;
	return result;
}
