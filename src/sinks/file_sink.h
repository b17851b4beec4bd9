/*-------------------------------------------------------------------------
 *
 * file_sink.h
 *		What the sources of the sink "file" share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FILE_SINK_H
#define FILE_SINK_H

#include <sys/stat.h>

#include "order_sink.h"
#include "utils/hsearch.h"

typedef struct FileSink
{
	int			fd;				/* -1: not open */
	bool		ready;			/* open, locked, and its end looked at */
	bool		looked_back;	/* at the ends of rotated files */
	char	   *directory;
	char	   *name;
	char	   *path;			/* of both */
	bool		sync;
	int64		rotate_size;	/* bytes; 0: never */
	TimestampTz last_rotated;	/* the time in the newest rotated file's name */
	struct stat identity;		/* of the file that is open */
	off_t		broken_from;	/* a write failed that began here; -1: none */
	HTAB	   *written;		/* ids of events in the files, maybe
								 * unrecorded */
} FileSink;

/* file.c */
extern void file_report_failure(const char *what, const char *path);
extern bool file_sync(const FileSink *sink, int fd, int (*sync) (int fd));

/* file_tail.c */
extern off_t file_read_tail(FileSink *sink, int fd, const char *path, off_t size, int *lines);

/* file_rotation.c */
extern int	file_suffix_length(void);
extern void file_look_back(FileSink *sink, int lines);
extern void file_rename(FileSink *sink);

#endif							/* FILE_SINK_H */
