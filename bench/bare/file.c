/*-------------------------------------------------------------------------
 *
 * file.c
 *		Appending lines to a file: a write and an fsync for each batch.
 *
 *-------------------------------------------------------------------------
 */
#include <fcntl.h>
#include <unistd.h>

#include "bare.h"

static int	file;
static char *buffer;
static size_t room;

static const char *const names[ATTRIBUTES] = {
	"specversion", "id", "source", "type", "subject", "time", "partitionkey", "sequence", "datacontenttype"
};

void
publisher_open(void)
{
	char		path[4096];

	snprintf(path, sizeof(path), "%s/%s", options.target, options.topic);
	file = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (file < 0)
		die("could not open \"%s\"", path);
}

/* Adds text to the buffer; returns where it ends. */
static size_t
append(size_t at, const char *text, size_t size)
{
	if (at + size > room)
	{
		room = 2 * (at + size);
		buffer = realloc(buffer, room);
		if (buffer == NULL)
			die("out of memory");
	}
	memcpy(buffer + at, text, size);
	return at + size;
}

/* Adds a line; nothing in these events needs an escape. */
static size_t
append_line(size_t at, const Event *event)
{
	for (int i = 0; i < ATTRIBUTES; i++)
	{
		at = append(at, i == 0 ? "{\"" : ",\"", 2);
		at = append(at, names[i], strlen(names[i]));
		at = append(at, "\":\"", 3);
		at = append(at, event->value[i], strlen(event->value[i]));
		at = append(at, "\"", 1);
	}
	at = append(at, ",\"data\":", 8);
	at = append(at, event->payload, event->payload_size);
	return append(at, "}\n", 2);
}

void
publish(const Event *events, int n)
{
	for (int done = 0; done < n; done += options.batch)
	{
		size_t		size = 0;

		for (int i = done; i < n && i < done + options.batch; i++)
			size = append_line(size, &events[i]);
		if (write(file, buffer, size) != (ssize_t) size || fsync(file) != 0)
			die("could not write");
	}
}
