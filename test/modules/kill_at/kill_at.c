/*-------------------------------------------------------------------------
 *
 * kill_at.c
 *		Kills a process at a chosen system call, or has the call fail, for tests.
 *
 * To be loaded by LD_PRELOAD.  Environment variable KILL_AT names a directory.
 * Calls of rename(), write(), fsync() and ftruncate() that have to do with files
 * in its subdirectory "sink" are looked at while there is a file "order" in it.
 * That has three words: a call's name, a number n, and "before" or "after". The
 * n-th of these calls in a process, counted from when it began to see the
 * file, becomes the last one, and the file is removed.  "middle" is for a
 * write() of which only a half is done.  "fail" has the call fail with EIO, and nothing
 * done; the process goes on.
 *
 *-------------------------------------------------------------------------
 */
/* since 16 modules are compiled so that what is not said to be visible is not */
#pragma GCC visibility push(default)

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern int	rename(const char *from, const char *to);

/* an order, as long as there is one */
typedef struct Order
{
	char		path[PATH_MAX];
	char		call[16];
	int			n;
	char		when[16];
} Order;

/* calls counted under the present order */
static int	count = 0;

/*
 * Read the order.  0: there is none.
 */
static int
read_order(Order *order)
{
	const char *directory = getenv("KILL_AT");
	FILE	   *file;
	int			fields;

	if (directory == NULL)
		return 0;
	snprintf(order->path, sizeof(order->path), "%s/order", directory);
	file = fopen(order->path, "r");
	if (file == NULL)
	{
		count = 0;
		return 0;
	}
	fields = fscanf(file, "%15s %d %15s", order->call, &order->n, order->when);
	fclose(file);
	return fields == 3;
}

/*
 * Is a path below the directory's subdirectory "sink"?
 */
static int
is_watched(const char *path)
{
	const char *directory = getenv("KILL_AT");
	size_t		len = directory ? strlen(directory) : 0;

	return directory != NULL && strncmp(path, directory, len) == 0 &&
		strncmp(path + len, "/sink", 5) == 0;
}

/*
 * Is a descriptor's file?
 */
static int
is_watched_fd(int fd)
{
	char		link[64];
	char		path[PATH_MAX];
	ssize_t		len;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = readlink(link, path, sizeof(path) - 1);
	if (len < 0)
		return 0;
	path[len] = '\0';
	return is_watched(path);
}

/*
 * Is this the call?  Then the order is done.
 */
static int
is_ordered(Order *order, const char *call)
{
	return read_order(order) && strcmp(order->call, call) == 0 && ++count == order->n &&
		unlink(order->path) == 0;
}

/*
 * End here, if it is the time.
 */
static void
end_if(const Order *order, const char *when)
{
	if (strcmp(order->when, when) == 0)
		kill(getpid(), SIGKILL);
}

/*
 * Is the call to fail?  Then errno says of what.
 */
static int
is_to_fail(const Order *order)
{
	if (strcmp(order->when, "fail") != 0)
		return 0;
	errno = EIO;
	return 1;
}

/*
 * rename()
 */
int
rename(const char *from, const char *to)
{
	int			(*real) (const char *, const char *) = dlsym(RTLD_NEXT, "rename");
	Order		order;
	int			ordered = is_watched(from) && is_ordered(&order, "rename");
	int			result;

	if (ordered && is_to_fail(&order))
		return -1;
	if (ordered)
		end_if(&order, "before");
	result = real(from, to);
	if (ordered)
		end_if(&order, "after");
	return result;
}

/*
 * write()
 */
ssize_t
write(int fd, const void *data, size_t len)
{
	ssize_t		(*real) (int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
	Order		order;
	int			ordered = is_watched_fd(fd) && is_ordered(&order, "write");
	ssize_t		result;

	if (ordered && is_to_fail(&order))
		return -1;
	if (ordered)
		end_if(&order, "before");
	if (ordered && strcmp(order.when, "middle") == 0)
		len /= 2;
	result = real(fd, data, len);
	if (ordered)
		end_if(&order, "middle");
	if (ordered)
		end_if(&order, "after");
	return result;
}

/*
 * fsync()
 */
int
fsync(int fd)
{
	int			(*real) (int) = dlsym(RTLD_NEXT, "fsync");
	Order		order;
	int			ordered = is_watched_fd(fd) && is_ordered(&order, "fsync");
	int			result;

	if (ordered && is_to_fail(&order))
		return -1;
	if (ordered)
		end_if(&order, "before");
	result = real(fd);
	if (ordered)
		end_if(&order, "after");
	return result;
}

/*
 * ftruncate()
 */
int
ftruncate(int fd, off_t length)
{
	int			(*real) (int, off_t) = dlsym(RTLD_NEXT, "ftruncate");
	Order		order;
	int			ordered = is_watched_fd(fd) && is_ordered(&order, "ftruncate");
	int			result;

	if (ordered && is_to_fail(&order))
		return -1;
	if (ordered)
		end_if(&order, "before");
	result = real(fd, length);
	if (ordered)
		end_if(&order, "after");
	return result;
}
