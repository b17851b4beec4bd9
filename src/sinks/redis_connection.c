/*-------------------------------------------------------------------------
 *
 * redis_connection.c
 *		A connection to a Redis server that is never waited for without end.
 *
 * hiredis keeps the buffers and takes apart what comes; the waiting is done here,
 * on the process latch, in pieces after which interrupts are looked at.
 * All that fails is an ERROR.  An error may leave a connection on which answers
 * are to come: redis_is_idle() tells, and such a one has to be closed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include "compat.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "redis_connection.h"
#include "redis_lookup.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* ms until interrupts are looked at, while nothing comes */
#define POLL_INTERVAL 200

/* bytes of an answer that has not come to its end; those to 5,000 events are smaller */
#define MOST_UNREAD (16 * 1024 * 1024)

/* the same, while a name is looked up, which nothing tells the end of */
#define LOOKUP_INTERVAL 10

/*
 * Wait for something on a socket, or for so many ms.  False: time is over.
 */
static bool
wait_for(pgsocket sock, int what, TimestampTz until, long interval)
{
	static uint32 event = 0;
	long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

	CHECK_FOR_INTERRUPTS();
	if (left <= 0)
		return false;
	what |= WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH;
	if (WaitLatchOrSocket(MyLatch, what, sock, Min(left, interval),
						  oi_compat_wait_event(&event, "OrderIdempotencyRedis")) & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return true;
}

/*
 * When an answer has to be there.
 */
static TimestampTz
time_limit(const RedisTarget *target, TimestampTz deadline)
{
	return Min(deadline,
			   TimestampTzPlusMilliseconds(GetCurrentTimestamp(), target->timeout));
}

/*
 * Let go of the last reply.
 */
static void
drop_reply(RedisConnection *connection)
{
	if (connection->reply != NULL)
		freeReplyObject(connection->reply);
	connection->reply = NULL;
}

/*
 * Close the socket, if there is one.
 */
static void
close_socket(RedisConnection *connection)
{
	if (connection->context != NULL)
	{
		redisFree(connection->context);
		ReleaseExternalFD();
	}
	connection->context = NULL;
	connection->waiting = 0;
}

/*
 * Close the connection, whatever state it is in.
 */
void
redis_close(RedisConnection *connection)
{
	drop_reply(connection);
	if (connection->lookup != NULL)
		redis_lookup_end(connection->lookup);
	connection->lookup = NULL;
	close_socket(connection);
}

/*
 * The connection is of no use: close it and say why.
 */
static void
fail(RedisConnection *connection, const RedisTarget *target, const char *why)
{
	redis_close(connection);
	if (target->host[0] == '/')
		ereport(ERROR,
				(errcode(ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION),
				 errmsg("no connection to Redis at \"%s\": %s", target->host, why)));
	ereport(ERROR,
			(errcode(ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION),
			 errmsg("no connection to Redis at %s port %d: %s", target->host, target->port, why)));
}

/*
 * Is it open, with no answer to come, and nothing from the other side, which
 * could only be its end?
 */
bool
redis_is_idle(const RedisConnection *connection)
{
	struct pollfd socket = {.events = POLLIN};

	if (connection->context == NULL || connection->waiting > 0)
		return false;
	socket.fd = connection->context->fd;
	return poll(&socket, 1, 0) == 0;
}

/*
 * Take over what hiredis began to connect.  False: it could not even begin.
 */
static bool
take_context(RedisConnection *connection, redisContext * context)
{
	if (context == NULL)
		return false;
	if (context->err != 0)
	{
		redisFree(context);
		return false;
	}
	ReserveExternalFD();
	connection->context = context;
	(void) fcntl(context->fd, F_SETFD, FD_CLOEXEC);
	return true;
}

/*
 * Wait until a connection stands.  NULL, or why it does not.
 */
static const char *
wait_connected(RedisConnection *connection, TimestampTz until)
{
	int			fd = connection->context->fd;
	int			error = 0;
	socklen_t	len = sizeof(error);
	struct pollfd socket = {.fd = fd,.events = POLLOUT};

	while (poll(&socket, 1, 0) == 0)
		if (!wait_for(fd, WL_SOCKET_WRITEABLE, until, POLL_INTERVAL))
			return "timeout";
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
		error = errno;
	return error == 0 ? NULL : pstrdup(strerror(error));
}

/*
 * Connect to one address.  NULL, or why it failed.
 */
static const char *
try_address(RedisConnection *connection, const RedisTarget *target,
			const struct addrinfo *address, TimestampTz until)
{
	char		numeric[NI_MAXHOST];
	const char *failure;

	if (!oi_address_allowed(target->allowed, address->ai_addr))
		return OI_ADDRESS_REFUSED;
	if (!oi_address_text(address->ai_addr, numeric, sizeof(numeric)))
		return "unknown kind of address";
	if (!take_context(connection, redisConnectNonBlock(numeric, target->port)))
		return "could not create a socket";
	failure = wait_connected(connection, until);
	if (failure != NULL)
		close_socket(connection);
	return failure;
}

/*
 * Connect to a host, by one of its addresses.
 */
static void
open_host(RedisConnection *connection, const RedisTarget *target, TimestampTz until)
{
	const char *failure = "no address";
	const struct addrinfo *addresses;

	connection->lookup = redis_lookup_start(target->host);
	while (!redis_lookup_is_over(connection->lookup))
		if (!wait_for(PGINVALID_SOCKET, 0, until, LOOKUP_INTERVAL))
			fail(connection, target, "timeout of the name server");
	addresses = redis_lookup_addresses(connection->lookup, &failure);
	for (; addresses != NULL && failure != NULL; addresses = addresses->ai_next)
		failure = try_address(connection, target, addresses, until);
	if (failure != NULL)
		fail(connection, target, failure);
	redis_lookup_end(connection->lookup);
	connection->lookup = NULL;
}

/*
 * Connect.
 */
void
redis_open(RedisConnection *connection, const RedisTarget *target, TimestampTz deadline)
{
	TimestampTz until = time_limit(target, deadline);
	const char *failure;

	redis_close(connection);
	if (target->host[0] != '/')
	{
		open_host(connection, target, until);
		return;
	}
	if (!take_context(connection, redisConnectUnixNonBlock(target->host)))
		fail(connection, target, pstrdup(strerror(errno)));
	failure = wait_connected(connection, until);
	if (failure != NULL)
		fail(connection, target, failure);
}

/*
 * Append a sign, a number and the end of a line.
 */
static void
append_head(StringInfo out, char sign, uint32 number)
{
	char		head[16];
	int			len;

	head[0] = sign;
	len = 1 + pg_ultoa_n(number, head + 1);
	head[len++] = '\r';
	head[len++] = '\n';
	appendBinaryStringInfo(out, head, len);
}

/*
 * Append the beginning of a command of so many arguments, its name included.
 */
void
redis_begin_command(StringInfo out, int nargs)
{
	append_head(out, '*', nargs);
}

/*
 * Append an argument of a command.
 */
void
redis_append_arg(StringInfo out, const char *arg)
{
	size_t		len = strlen(arg);

	append_head(out, '$', len);
	appendBinaryStringInfo(out, arg, len);
	appendBinaryStringInfo(out, "\r\n", 2);
}

/*
 * Append a number as an argument.
 */
void
redis_append_number(StringInfo out, int64 number)
{
	char text[	MAXINT8LEN + 1];

	pg_lltoa(number, text);
	redis_append_arg(out, text);
}

/*
 * Append a command whose arguments are all given.
 */
void
redis_command(StringInfo out, int nargs,...)
{
	va_list		args;

	redis_begin_command(out, nargs);
	va_start(args, nargs);
	for (int i = 0; i < nargs; i++)
		redis_append_arg(out, va_arg(args, const char *));
	va_end(args);
}

/*
 * Have n commands be sent by the next call of redis_receive().
 */
void
redis_send(RedisConnection *connection, const char *commands, size_t len, int n)
{
	connection->waiting += n;
	if (redisAppendFormattedCommand(connection->context, commands, len) != REDIS_OK)
	{
		redis_close(connection);
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	}
}

/*
 * Write and read as much as can be now.  What is to be waited for next.
 */
static int
exchange(RedisConnection *connection, const RedisTarget *target)
{
	redisContext *context = connection->context;
	int			written = 0;

	if (redisBufferWrite(context, &written) != REDIS_OK ||
		redisBufferRead(context) != REDIS_OK)
		fail(connection, target, pstrdup(context->errstr));
	if (context->reader->len > MOST_UNREAD)
		fail(connection, target, "answer is too long");
	return written ? WL_SOCKET_READABLE : WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE;
}

/*
 * Write what is to be sent, as much as can be now.
 */
void
redis_push(RedisConnection *connection, const RedisTarget *target)
{
	int			written;

	if (redisBufferWrite(connection->context, &written) != REDIS_OK)
		fail(connection, target, pstrdup(connection->context->errstr));
}

/*
 * The next answer.  It is there until the next call for this connection.
 */
redisReply *
redis_receive(RedisConnection *connection, const RedisTarget *target, TimestampTz deadline)
{
	TimestampTz until = time_limit(target, deadline);
	void	   *reply = NULL;

	drop_reply(connection);
	for (;;)
	{
		int			what;

		if (redisGetReplyFromReader(connection->context, &reply) != REDIS_OK)
			fail(connection, target, pstrdup(connection->context->errstr));
		if (reply != NULL)
			break;
		what = exchange(connection, target);
		if (redisGetReplyFromReader(connection->context, &reply) != REDIS_OK)
			fail(connection, target, pstrdup(connection->context->errstr));
		if (reply != NULL)
			break;
		if (!wait_for(connection->context->fd, what, until, POLL_INTERVAL))
			fail(connection, target, "no answer in time");
	}
	connection->reply = reply;
	connection->waiting--;
	return connection->reply;
}
