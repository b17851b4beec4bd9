/*-------------------------------------------------------------------------
 *
 * file.c
 *		The sink "file": JSON lines, one CloudEvent a line.
 *
 * Server option path names a directory, the topic a file in it, which is
 * created if need be.  A batch is one write to the end of the file, then an
 * fsync; only then is it delivered.
 *
 * Exactly once: a crash may leave batches in the file, whole or cut short,
 * that the database does not know to be delivered.  They can only be at the
 * file's end, and are no more than OI_SINK_MAX_EVENTS lines.  So at the start a
 * last line without its newline is cut off, and the ids of as many lines
 * are remembered: an event with one of them is there already.  After a write
 * that failed the file is cut back to where it was.
 *
 * Where a batch would make the file larger than option rotate_size, the file is
 * given another name first; where it has fewer lines than that, the start goes on
 * with the end of the newest of those (file_rotation.c).
 *
 * An exclusive lock on the file keeps a second writer away, such as another
 * subscription with the same file.  If the file was renamed or removed by somebody
 * else, as log rotation does, the next batch goes to a new one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/file_perm.h"
#include "compat.h"
#include "file_sink.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

/*
 * Raise the error of a failed call on the file.
 */
void
file_report_failure(const char *what, const char *path)
{
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not %s file \"%s\": %m", what, path)));
}

/*
 * Callback: is everything there?
 */
static const char *
file_check_configured(OiSinkState *state)
{
	if (oi_sink_option(state->options, "path") == NULL)
		return "option \"path\" is missing";
	if (state->topic == NULL)
		return "there is no topic";
	if (oi_sink_option(state->options, "rotate_size") != NULL &&
		strlen(state->topic) + file_suffix_length() > NAME_MAX)
		return "the topic is too long for the names of rotated files";
	return NULL;
}

/*
 * Flush a descriptor by one of the server's functions, unless told not to.  False,
 * with errno: it failed.
 */
bool
file_sync(const FileSink *sink, int fd, int (*sync) (int fd))
{
	static uint32 event = 0;
	int			result;

	if (!sink->sync)
		return true;
	pgstat_report_wait_start(oi_compat_wait_event(&event, "OrderIdempotencyFileSync"));
	result = sync(fd);
	pgstat_report_wait_end();

	return result == 0;
}

/*
 * Flush the directory, so that a new file's name is durable.
 */
static void
sync_directory(const FileSink *sink)
{
	int			fd = OpenTransientFile(sink->directory, O_RDONLY);

	if (fd < 0)
		file_report_failure("open", sink->directory);
	if (!file_sync(sink, fd, pg_fsync))
		file_report_failure("fsync", sink->directory);
	CloseTransientFile(fd);
}

/*
 * Close the file, which lets go of its lock.
 */
static void
close_file(FileSink *sink)
{
	sink->ready = false;
	if (sink->fd < 0)
		return;
	close(sink->fd);
	ReleaseExternalFD();
	sink->fd = -1;
}

/*
 * Is the file that is open still the one of that name?
 */
static bool
is_same_file(const FileSink *sink)
{
	struct stat named;

	if (sink->fd < 0 || lstat(sink->path, &named) != 0)
		return false;
	return named.st_dev == sink->identity.st_dev &&
		named.st_ino == sink->identity.st_ino;
}

/*
 * Open the file and lock it.  A symbolic link is not followed, nor is a file
 * written to that has another name elsewhere: who may write to the directory
 * must not choose what the server writes to.
 */
static void
open_file(FileSink *sink)
{
	ReserveExternalFD();
	sink->fd = BasicOpenFilePerm(sink->path, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | PG_BINARY,
								 pg_file_create_mode);
	if (sink->fd < 0)
	{
		ReleaseExternalFD();
		file_report_failure("open", sink->path);
	}
	if (flock(sink->fd, LOCK_EX | LOCK_NB) != 0)
	{
		if (errno != EWOULDBLOCK)
			file_report_failure("lock", sink->path);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("file \"%s\" is being written to by another process", sink->path)));
	}
	if (fstat(sink->fd, &sink->identity) != 0)
		file_report_failure("stat", sink->path);
	if (!S_ISREG(sink->identity.st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a regular file", sink->path)));
	if (sink->identity.st_nlink > 1)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("file \"%s\" has another name, too", sink->path),
				 errhint("Remove the hard link.")));
	if (!is_same_file(sink))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("file \"%s\" was replaced while it was opened", sink->path)));
}

/*
 * Open the file and bring it into a state to go on from.
 */
static void
enter_file(FileSink *sink)
{
	int			lines = OI_SINK_MAX_EVENTS;
	off_t		whole;

	close_file(sink);
	open_file(sink);
	whole = file_read_tail(sink, sink->fd, sink->path, sink->identity.st_size, &lines);
	if (whole < sink->identity.st_size && ftruncate(sink->fd, whole) != 0)
		file_report_failure("truncate", sink->path);
	sink->broken_from = -1;
	if (!sink->looked_back)
		file_look_back(sink, lines);
	sink->looked_back = true;

	/* what was remembered counts as delivered, so it has to be durable */
	if (!file_sync(sink, sink->fd, pg_fsync))
		file_report_failure("fsync", sink->path);
	sync_directory(sink);
	sink->ready = true;
}

/*
 * The value of option rotate_size.  Not by oi_sink_bytes(), which 1.0 has not: a
 * server that still runs it has to be able to load this library, to see
 * that it is for another version.
 */
static int64
bytes_of(const char *size)
{
	double		bytes;

	if (!parse_real(size, &bytes, GUC_UNIT_BYTE, NULL))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid size \"%s\"", size)));
	return (int64) bytes;
}

/*
 * Callback: open the file.
 */
static void
file_startup(OiSinkState *state)
{
	MemoryContext old = MemoryContextSwitchTo(state->context);
	FileSink   *sink = palloc0(sizeof(FileSink));
	const char *sync = oi_sink_option(state->options, "fsync");
	const char *size = oi_sink_option(state->options, "rotate_size");
	HASHCTL		ctl = {0};

	state->private_data = sink;
	sink->fd = -1;
	sink->broken_from = -1;
	sink->directory = pstrdup(oi_sink_option(state->options, "path"));
	sink->name = pstrdup(state->topic);
	sink->path = psprintf("%s/%s", sink->directory, sink->name);
	if (sync == NULL || !parse_bool(sync, &sink->sync))
		sink->sync = true;
	if (size != NULL)
		sink->rotate_size = bytes_of(size);

	ctl.keysize = sizeof(pg_uuid_t);
	ctl.entrysize = sizeof(pg_uuid_t);
	ctl.hcxt = state->context;
	sink->written = hash_create("order_idempotency file", 1024, &ctl,
								HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	MemoryContextSwitchTo(old);

	enter_file(sink);
}

/*
 * Undo a write that failed, so that no part of it is read by anyone, or taken
 * for durable by us: after an fsync that failed, a later one proves nothing.
 * False, with errno: that failed too.
 */
static bool
repair_file(FileSink *sink)
{
	struct stat now;

	if (sink->broken_from < 0)
		return true;
	if (fstat(sink->fd, &now) != 0)
		return false;
	if (now.st_size > sink->broken_from && ftruncate(sink->fd, sink->broken_from) != 0)
		return false;
	sink->broken_from = -1;
	return true;
}

/*
 * Raise the error of a write or fsync that failed, and undo it; where that is
 * not possible now, the next delivery begins with it.
 */
static void
fail_write(FileSink *sink, const char *what)
{
	int			save_errno = errno;

	(void) repair_file(sink);
	errno = save_errno;
	file_report_failure(what, sink->path);
}

/*
 * Append bytes to the file, durably.
 */
static void
write_durably(FileSink *sink, const char *data, size_t len)
{
	static uint32 event = 0;
	struct stat now;

	if (fstat(sink->fd, &now) != 0)
		file_report_failure("stat", sink->path);
	sink->broken_from = now.st_size;

	while (len > 0)
	{
		ssize_t		written;

		errno = 0;
		pgstat_report_wait_start(oi_compat_wait_event(&event, "OrderIdempotencyFileWrite"));
		written = write(sink->fd, data, len);
		pgstat_report_wait_end();
		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
		{
			if (errno == 0)
				errno = ENOSPC;
			fail_write(sink, "write to");
		}
		data += written;
		len -= written;
	}

	if (!file_sync(sink, sink->fd, pg_fsync))
		fail_write(sink, "fsync");
	sink->broken_from = -1;
}

/*
 * Give the file another name if it has no room for a batch, and go on in a new
 * one.  All that it has is durable.
 */
static void
make_room(FileSink *sink, size_t len)
{
	struct stat now;

	if (sink->rotate_size == 0)
		return;
	if (fstat(sink->fd, &now) != 0)
		file_report_failure("stat", sink->path);
	if (now.st_size == 0 || now.st_size + (int64) len <= sink->rotate_size ||
		!is_same_file(sink))
		return;
	sink->ready = false;
	file_rename(sink);
	enter_file(sink);
}

/*
 * Callback: append the events of a batch that are not in the file yet.
 */
static void
file_deliver(OiSinkState *state, OiSinkEvent *events, int n, TimestampTz deadline)
{
	FileSink   *sink = state->private_data;
	StringInfoData lines;

	if (!repair_file(sink))
		file_report_failure("truncate", sink->path);
	if (!sink->ready || !is_same_file(sink))
		enter_file(sink);

	initStringInfo(&lines);
	for (int i = 0; i < n; i++)
	{
		if (hash_search(sink->written, &events[i].event_id, HASH_FIND, NULL))
			continue;
		oi_cloudevent_append(&lines, state, &events[i]);
		appendStringInfoChar(&lines, '\n');
	}
	if (lines.len > 0)
	{
		make_room(sink, lines.len);
		write_durably(sink, lines.data, lines.len);
	}

	for (int i = 0; i < n; i++)
	{
		(void) hash_search(sink->written, &events[i].event_id, HASH_REMOVE, NULL);
		events[i].outcome = OI_SINK_DELIVERED;
	}
}

/*
 * Callback: close the file.
 */
static void
file_shutdown(OiSinkState *state)
{
	FileSink   *sink = state->private_data;

	if (sink != NULL)
		close_file(sink);
}

static const OiSinkCallbacks file_callbacks = {
	.magic = OI_SINK_MAGIC,
	.check_configured = file_check_configured,
	.startup = file_startup,
	.deliver = file_deliver,
	.shutdown = file_shutdown
};

/*
 * What the loader looks up.
 */
const OiSinkCallbacks *
_PG_order_sink_init(void)
{
	return &file_callbacks;
}
