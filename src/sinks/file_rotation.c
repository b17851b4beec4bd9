/*-------------------------------------------------------------------------
 *
 * file_rotation.c
 *		The sink "file": rotated files.
 *
 * A file NAME that is full becomes NAME.20260131T235959.123456+00, the time in
 * UTC.  A topic cannot have a "+", so no subscription's own file is taken for
 * another's rotated one.  Each of these names is later than those before it,
 * even where the clock was set back.  Others may rename the file like that, too,
 * with less of a fraction and more of a zone.
 *
 * A file is only renamed when all that it has is durable.  The new name is made durable before anything is
 * written to the new file, so after a crash it has one name or the other.
 *
 * What a crash leaves unrecorded are the last lines that were written, no more
 * than OI_SINK_MAX_EVENTS of them.  They may be in the file and in any number of
 * rotated ones, the newest.  So the start looks back into these until it has
 * seen as many lines.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "file_sink.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "storage/fd.h"
#include "utils/timestamp.h"

#define SUFFIX_CHARS "0123456789T.+"
#define SUFFIX_FORMAT ".%04d%02d%02dT%02d%02d%02d.%06d+00"
#define SUFFIX_LENGTH 26

/* a rotated file */
typedef struct Rotated
{
	TimestampTz at;
	char	   *name;
} Rotated;

/*
 * How much longer than the file's name a rotated one's is.
 */
int
file_suffix_length(void)
{
	return SUFFIX_LENGTH;
}

/*
 * What makes a rotated file's name of the file's.
 */
static char *
make_suffix(TimestampTz at)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (timestamp2tm(at, NULL, &tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	return psprintf(SUFFIX_FORMAT, tm.tm_year, tm.tm_mon, tm.tm_mday,
					tm.tm_hour, tm.tm_min, tm.tm_sec, (int) fsec);
}

/*
 * The time in such a suffix.  False: it is none.
 */
static bool
read_suffix(const char *suffix, TimestampTz *at)
{
	struct pg_tm tm = {0};
	char		fraction[7] = "";
	int			utc = 0;
	int			fields = sscanf(suffix, ".%4d%2d%2dT%2d%2d%2d.%6[0-9]", &tm.tm_year, &tm.tm_mon,
								&tm.tm_mday, &tm.tm_hour, &tm.tm_min, &tm.tm_sec, fraction);

	if (fields < 6 || strspn(suffix, SUFFIX_CHARS) != strlen(suffix) || strchr(suffix, '+') == NULL)
		return false;
	if (tm.tm_mon < 1 || tm.tm_mon > MONTHS_PER_YEAR || tm.tm_mday < 1 || tm.tm_mday > 31)
		return false;
	for (int i = strlen(fraction); i < 6; i++)
		fraction[i] = '0';
	return tm2timestamp(&tm, atoi(fraction), &utc, at) == 0;
}

/*
 * For qsort: the newest first.
 */
static int
compare(const void *a, const void *b)
{
	const Rotated *first = a;
	const Rotated *second = b;

	if (first->at != second->at)
		return first->at < second->at ? 1 : -1;
	return -strcmp(first->name, second->name);
}

/*
 * The rotated files of ours in the directory, the newest first.
 */
static Rotated *
list_rotated(const FileSink *sink, int *n)
{
	DIR		   *dir = AllocateDir(sink->directory);
	size_t		len = strlen(sink->name);
	int			size = 64;
	Rotated    *rotated = palloc(sizeof(Rotated) * size);
	struct dirent *entry;
	TimestampTz at;

	*n = 0;
	while ((entry = ReadDir(dir, sink->directory)) != NULL)
	{
		if (strncmp(entry->d_name, sink->name, len) != 0 || !read_suffix(entry->d_name + len, &at))
			continue;
		if (*n == size)
			rotated = repalloc(rotated, sizeof(Rotated) * (size *= 2));
		rotated[*n].at = at;
		rotated[*n].name = pstrdup(entry->d_name);
		(*n)++;
	}
	FreeDir(dir);
	qsort(rotated, *n, sizeof(Rotated), compare);

	return rotated;
}

/*
 * Remember the events at the end of a rotated file, and make them durable, as they
 * count as delivered.  It may have been taken away by now, or be nobody's to write
 * to: pg_fsync() wants a descriptor that may write, pg_fsync_no_writethrough() does not.
 */
static void
read_rotated(FileSink *sink, const char *name, int *lines)
{
	char	   *path = psprintf("%s/%s", sink->directory, name);
	int			fd = OpenTransientFile(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | PG_BINARY);
	struct stat st;

	if (fd < 0 && errno != ENOENT && errno != ELOOP)
		file_report_failure("open", path);
	if (fd < 0)
		return;
	if (fstat(fd, &st) != 0)
		file_report_failure("stat", path);
	if (S_ISREG(st.st_mode))
	{
		(void) file_read_tail(sink, fd, path, st.st_size, lines);
		if (!file_sync(sink, fd, pg_fsync_no_writethrough))
			file_report_failure("fsync", path);
	}
	CloseTransientFile(fd);
	pfree(path);
}

/*
 * Remember the events of so many lines before the file's first one.
 */
void
file_look_back(FileSink *sink, int lines)
{
	int			n;
	Rotated    *rotated = list_rotated(sink, &n);

	if (n > 0)
		sink->last_rotated = rotated[0].at;
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (lines > 0)
			read_rotated(sink, rotated[i].name, &lines);
		pfree(rotated[i].name);
	}
	pfree(rotated);
}

/*
 * Give the file the name of a rotated one.  That is durable when the directory
 * has been flushed.
 */
void
file_rename(FileSink *sink)
{
	TimestampTz at = Max(GetCurrentTimestamp(), sink->last_rotated + 1);
	char	   *to = psprintf("%s%s", sink->path, make_suffix(at));
	struct stat st;

	if (lstat(to, &st) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_FILE),
				 errmsg("file \"%s\" already exists", to)));
	if (rename(sink->path, to) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not rename file \"%s\" to \"%s\": %m", sink->path, to)));
	sink->last_rotated = at;
}
