/*-------------------------------------------------------------------------
 *
 * receiver.c
 *		A receiver of HTTP requests that does nothing with them.
 *
 *		receiver PORT
 *
 * Listens on 127.0.0.1, and answers each request with 200 when its body is there.  A
 * body is as long as Content-Length says.  One thread, any number of connections,
 * which are kept.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common.h"

#define ROOM		65536
#define EVENTS		64

static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

typedef struct Connection
{
	int			fd;
	size_t		have;
	char		data[ROOM + 1];
} Connection;

/* How long the request is that the data begins with; 0: it is not all there. */
static size_t
request_size(Connection *connection)
{
	char	   *end;
	char	   *length;
	size_t		size;

	connection->data[connection->have] = '\0';
	end = strstr(connection->data, "\r\n\r\n");
	if (end == NULL)
		return 0;
	*end = '\0';
	length = strcasestr(connection->data, "\r\nContent-Length:");
	size = end + 4 - connection->data + (length ? strtoul(length + 17, NULL, 10) : 0);
	*end = '\r';
	return size <= connection->have ? size : 0;
}

/* Reads what has come, and answers what is whole.  Lets go of a connection at its end. */
static void
serve(Connection *connection)
{
	ssize_t		got = read(connection->fd, connection->data + connection->have, ROOM - connection->have);
	size_t		size;

	if (got <= 0)
	{
		close(connection->fd);
		free(connection);
		return;
	}
	connection->have += got;
	while ((size = request_size(connection)) > 0)
	{
		if (write(connection->fd, answer, sizeof(answer) - 1) != (ssize_t) sizeof(answer) - 1)
			break;
		connection->have -= size;
		memmove(connection->data, connection->data + size, connection->have);
	}
}

/* Takes a new connection. */
static void
take_connection(int epoll, int listener)
{
	Connection *connection = malloc(sizeof(Connection));
	struct epoll_event event = {.events = EPOLLIN,.data.ptr = connection};
	int			on = 1;

	if (connection == NULL || (connection->fd = accept(listener, NULL, NULL)) < 0)
		die("could not take a connection: %s", strerror(errno));
	connection->have = 0;
	(void) setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, connection->fd, &event) != 0)
		die("could not watch a connection: %s", strerror(errno));
}

/* Listens on a port. */
static int
listen_on(int port)
{
	struct sockaddr_in address = {.sin_family = AF_INET,.sin_port = htons(port)};
	int			listener = socket(AF_INET, SOCK_STREAM, 0);
	int			on = 1;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	(void) setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(listener, (struct sockaddr *) &address, sizeof(address)) != 0 || listen(listener, 64) != 0)
		die("could not listen on port %d: %s", port, strerror(errno));
	return listener;
}

int
main(int argc, char **argv)
{
	int			listener = listen_on(argc == 2 ? atoi(argv[1]) : 0);
	int			epoll = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event = {.events = EPOLLIN,.data.ptr = NULL};
	struct epoll_event events[EVENTS];

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) != 0)
		die("could not watch the port: %s", strerror(errno));
	for (;;)
	{
		int			n = epoll_wait(epoll, events, EVENTS, -1);

		for (int i = 0; i < n; i++)
		{
			if (events[i].data.ptr == NULL)
				take_connection(epoll, listener);
			else
				serve(events[i].data.ptr);
		}
	}
}
