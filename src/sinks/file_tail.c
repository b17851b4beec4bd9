/*-------------------------------------------------------------------------
 *
 * file_tail.c
 *		The sink "file": which events are at a file's end?
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "file_sink.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

/* how much of a file is read at a time */
#define BLOCK_SIZE 65536

/* what a line begins with, as oi_cloudevent_append writes it; the id follows */
#define LINE_START "{\"specversion\":\"1.0\",\"id\":\""
#define UUID_TEXT_LEN 36
#define LINE_HEAD_LEN (sizeof(LINE_START) - 1 + UUID_TEXT_LEN)

/*
 * Read from a place in the file; all that was asked for has to be there.
 */
static void
read_at(int fd, const char *path, char *buf, size_t len, off_t at)
{
	ssize_t		got = pg_pread(fd, buf, len, at);

	if (got < 0)
		file_report_failure("read", path);
	if ((size_t) got != len)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("could not read file \"%s\": read %zd of %zu",
						path, got, len)));
}

/*
 * Remember the event of a line that begins at a place in the file, if there
 * is one of ours.
 */
static void
remember_line(FileSink *sink, int fd, const char *path, off_t at, off_t size)
{
	char		head[LINE_HEAD_LEN + 1];
	Datum		id;

	if (size - at < (off_t) LINE_HEAD_LEN)
		return;
	read_at(fd, path, head, LINE_HEAD_LEN, at);
	head[LINE_HEAD_LEN] = '\0';
	if (strncmp(head, LINE_START, strlen(LINE_START)) != 0 ||
		strspn(head + strlen(LINE_START), "0123456789abcdef-") != UUID_TEXT_LEN)
		return;
	id = DirectFunctionCall1(uuid_in, CStringGetDatum(head + strlen(LINE_START)));
	(void) hash_search(sink->written, DatumGetUUIDP(id), HASH_ENTER, NULL);
}

/*
 * Walk back from a file's end over the newlines of its last lines, up to a
 * number of *lines, of which those found are taken off.  Returns where the last
 * line that is whole ends; the events of the last lines are remembered.
 */
off_t
file_read_tail(FileSink *sink, int fd, const char *path, off_t size, int *lines)
{
	char	   *block = palloc(BLOCK_SIZE);
	off_t		start = size;
	off_t		whole = -1;

	while (start > 0 && *lines > 0)
	{
		int			len = (int) Min(start, BLOCK_SIZE);

		CHECK_FOR_INTERRUPTS();
		start -= len;
		read_at(fd, path, block, len, start);
		for (int i = len - 1; i >= 0 && *lines > 0; i--)
		{
			if (block[i] != '\n')
				continue;
			if (whole < 0)
				whole = start + i + 1;
			else
			{
				remember_line(sink, fd, path, start + i + 1, whole);
				(*lines)--;
			}
		}
	}
	if (start == 0 && whole > 0 && *lines > 0)
	{
		remember_line(sink, fd, path, 0, whole);
		(*lines)--;
	}
	pfree(block);

	return Max(whole, 0);
}
