/*
 * full.c
 *		A disk that is full on command, for a server of the torture run.
 *
 * To be preloaded (LD_PRELOAD).  As long as the first byte of the file that
 * TORTURE_FULL names is not 0, whatever would make a file longer fails with
 * ENOSPC, as on a file system without a free block.  What is inside a file can be
 * written, files can be removed, and symbolic links, sockets and pipes are left alone.
 * The file is mapped, so that a look at it costs nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static const volatile char *flag = NULL;
static dev_t disk;				/* that is full */

/* Map the file, once for the process and those forked from it. */
__attribute__((constructor)) static void
map_flag(void)
{
	const char *path = getenv("TORTURE_FULL");
	int			fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	struct stat st;
	void	   *at;

	if (fd < 0 || fstat(fd, &st) != 0)
		return;
	disk = st.st_dev;
	at = mmap(NULL, 1, PROT_READ, MAP_SHARED, fd, 0);
	if (at != MAP_FAILED)
		flag = at;
	close(fd);
}

/* Is there no room for a file up to that size? */
static int
no_room(int fd, off_t upto)
{
	struct stat st;

	if (flag == NULL || *flag == 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) ||
		st.st_dev != disk || upto <= st.st_size)
		return 0;
	errno = ENOSPC;
	return 1;
}

/* Where a write without an offset would end. */
static off_t
write_end(int fd, size_t len)
{
	struct stat st;
	off_t		at;

	if ((fcntl(fd, F_GETFL) & O_APPEND) != 0)
		return fstat(fd, &st) == 0 ? st.st_size + (off_t) len : 0;
	at = lseek(fd, 0, SEEK_CUR);
	return at < 0 ? 0 : at + (off_t) len;
}

/* The bytes of a vector. */
static size_t
vector_length(const struct iovec *iov, int count)
{
	size_t		sum = 0;

	for (int i = 0; i < count; i++)
		sum += iov[i].iov_len;
	return sum;
}

#define NEXT(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

ssize_t
write(int fd, const void *buf, size_t len)
{
	static __typeof__(&write) next = NULL;

	if (next == NULL)
		next = NEXT(write);
	if (fd > 2 && flag != NULL && *flag != 0 && no_room(fd, write_end(fd, len)))
		return -1;
	return next(fd, buf, len);
}

ssize_t
pwrite(int fd, const void *buf, size_t len, off_t at)
{
	static __typeof__(&pwrite) next = NULL;

	if (next == NULL)
		next = NEXT(pwrite);
	return no_room(fd, at + (off_t) len) ? -1 : next(fd, buf, len, at);
}

ssize_t
pwrite64(int fd, const void *buf, size_t len, off64_t at)
{
	return pwrite(fd, buf, len, at);
}

ssize_t
pwritev(int fd, const struct iovec *iov, int count, off_t at)
{
	static __typeof__(&pwritev) next = NULL;

	if (next == NULL)
		next = NEXT(pwritev);
	return no_room(fd, at + (off_t) vector_length(iov, count)) ? -1 : next(fd, iov, count, at);
}

ssize_t
pwritev64(int fd, const struct iovec *iov, int count, off64_t at)
{
	return pwritev(fd, iov, count, at);
}

int
posix_fallocate(int fd, off_t at, off_t len)
{
	static __typeof__(&posix_fallocate) next = NULL;

	if (next == NULL)
		next = NEXT(posix_fallocate);
	return no_room(fd, at + len) ? ENOSPC : next(fd, at, len);
}

int
posix_fallocate64(int fd, off64_t at, off64_t len)
{
	return posix_fallocate(fd, at, len);
}
