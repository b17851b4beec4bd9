/*-------------------------------------------------------------------------
 *
 * client.c
 *		One loop for PostgreSQL and Redis: send, wait for the answer, check it,
 *		again.  What the client costs is the same on both sides, as far as
 *		libpq and hiredis are alike.
 *
 *		client [options] postgres CONNINFO STATEMENT...
 *		client [options] redis SOCKET COMMAND [VALUE]
 *
 * Each client is a process with one connection.  A call is all of the
 * statements, one after the other, each prepared once and sent in a round trip
 * of its own.  $1 is the key; $2 and so on are the values of -p; $6 is
 * a fresh random UUID.  With Redis a call is COMMAND key, or COMMAND key VALUE.
 *
 *		-c N		clients (1)
 *		-s SECONDS	run for that long (1)
 *		-n CALLS	end after so many calls of all clients together
 *		-w CALLS	before it is counted, so many calls of each client (20; with -n none)
 *		-r RATE		no more than so many calls a second of all clients together
 *		-k KEYS		"uuid7" or "random": a fresh key for each call; else a file
 *					with a key on each line, of which each call takes one by chance
 *		-o			once: each call takes the next key of the file, until it ends
 *		-p VALUE	the next parameter, "\N" is null
 *		-e TEXT		what each call must answer: column "outcome" of the last
 *					statement, or else its first column; "N rows" is how many rows
 *					it must have changed
 *
 * Prints calls, seconds, and the seconds of CPU that the clients took.  Counting
 * begins when every client has connected and made its first calls.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE

#include <errno.h>
#include <hiredis/hiredis.h>
#include <libpq-fe.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"

#define MAX_CLIENTS		100
#define MAX_STATEMENTS	8
#define MAX_PARAMS		6
#define KEY_LENGTH		36
#define WARM_UP_CALLS	20

/* of int8, text and jsonb, as pg_type.dat has them */
#define INT8OID			20
#define TEXTOID			25
#define UUIDOID			2950
#define JSONBOID		3802

/* the types of $1 to $6 */
static const Oid param_types[MAX_PARAMS] = {
	TEXTOID, INT8OID, TEXTOID, TEXTOID, JSONBOID, UUIDOID
};

typedef struct Options
{
	int			clients;
	double		seconds;
	long		calls;			/* 0: no limit */
	long		warm_up;		/* of each client; -1: the default */
	double		rate;			/* 0: no limit */
	const char *keys;
	bool		once;
	const char *expected;
	const char *params[MAX_PARAMS];
	int			nparams;		/* the key included */
	bool		redis;
	const char *target;
	const char *statements[MAX_STATEMENTS];
	int			nstatements;
} Options;

/* what one client has done */
typedef struct Result
{
	long		calls;
	double		begin;
	double		end;
	double		cpu;
} Result;

/* what the processes share */
typedef struct Shared
{
	pthread_barrier_t ready;
	long		next_key;
	long		next_call;
	Result		results[MAX_CLIENTS];
} Shared;

typedef struct Client
{
	PGconn	   *postgres;
	redisContext *redis;
	uint64_t	random;
	char		key[KEY_LENGTH + 1];
	char		uuid[KEY_LENGTH + 1];
	int			statement_params[MAX_STATEMENTS];
	int			outcome;		/* number of the column, -1: not known yet */
} Client;

static Options options = {.clients = 1,.seconds = 1,.warm_up = -1,.keys = "random",.nparams = 1};
static Shared *shared;
static char **file_keys;
static long nfile_keys;

/* The next of a client's random numbers (splitmix64). */
static uint64_t
next_random(Client *client)
{
	uint64_t	z = (client->random += 0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

/* Writes a UUID: of version 7 with the time in front, or of version 4. */
static void
make_uuid(Client *client, int version, char *text)
{
	static const char digits[] = "0123456789abcdef";
	uint64_t	high = next_random(client);
	uint64_t	low = next_random(client);
	char	   *out = text;

	if (version == 7)
		high = ((uint64_t) (seconds_of(CLOCK_REALTIME) * 1000) << 16) | (high & 0xffff);
	high = (high & ~0xf000ULL) | ((uint64_t) version << 12);
	low = (low & ~(3ULL << 62)) | (2ULL << 62);
	for (int i = 0; i < 32; i++)
	{
		if (i == 8 || i == 12 || i == 16 || i == 20)
			*out++ = '-';
		*out++ = digits[((i < 16 ? high : low) >> (60 - 4 * (i % 16))) & 15];
	}
	*out = '\0';
}

/* The key of the next call.  NULL: there is none left. */
static const char *
next_key(Client *client)
{
	long		number;

	if (file_keys == NULL)
	{
		make_uuid(client, strcmp(options.keys, "uuid7") == 0 ? 7 : 4, client->key);
		return client->key;
	}
	if (!options.once)
		return file_keys[next_random(client) % nfile_keys];
	number = __atomic_fetch_add(&shared->next_key, 1, __ATOMIC_RELAXED);
	return number < nfile_keys ? file_keys[number] : NULL;
}

/* Reads the keys of a file. */
static void
read_keys(const char *path)
{
	FILE	   *file = fopen(path, "r");
	char		key[KEY_LENGTH + 1];
	long		room = 0;

	if (file == NULL)
		die("could not open \"%s\": %s", path, strerror(errno));
	while (fscanf(file, "%36s", key) == 1)
	{
		if (nfile_keys == room)
			file_keys = realloc(file_keys, (room = room * 2 + 1024) * sizeof(char *));
		file_keys[nfile_keys++] = strdup(key);
	}
	fclose(file);
	if (nfile_keys == 0)
		die("there are no keys in \"%s\"", path);
}

/* How many parameters does a statement take? */
static int
count_params(const char *statement)
{
	int			count = 0;

	for (const char *c = statement; *c; c++)
		if (*c == '$' && c[1] >= '1' && c[1] <= '0' + MAX_PARAMS && c[1] - '0' > count)
			count = c[1] - '0';
	return count;
}

/* Connects to PostgreSQL and prepares the statements. */
static void
connect_postgres(Client *client)
{
	client->postgres = PQconnectdb(options.target);
	if (PQstatus(client->postgres) != CONNECTION_OK)
		die("%s", PQerrorMessage(client->postgres));
	for (int i = 0; i < options.nstatements; i++)
	{
		char		name[] = {'s', '0' + i, '\0'};
		PGresult   *result;

		client->statement_params[i] = count_params(options.statements[i]);
		result = PQprepare(client->postgres, name, options.statements[i],
						   client->statement_params[i], param_types);
		if (PQresultStatus(result) != PGRES_COMMAND_OK)
			die("%s", PQerrorMessage(client->postgres));
		PQclear(result);
	}
}

/* Connects to Redis. */
static void
connect_redis(Client *client)
{
	client->redis = redisConnectUnix(options.target);
	if (client->redis == NULL || client->redis->err)
		die("could not connect to Redis at \"%s\"", options.target);
}

/* Is the answer of a call's last statement what it has to be? */
static void
check_postgres(Client *client, PGresult *result)
{
	const char *answer;

	if (options.expected == NULL)
		return;
	if (PQresultStatus(result) == PGRES_COMMAND_OK)
	{
		if (strncmp(PQcmdTuples(result), options.expected, strcspn(options.expected, " ")) != 0)
			die("%s rows instead of \"%s\"", PQcmdTuples(result), options.expected);
		return;
	}
	if (client->outcome < 0)
	{
		client->outcome = PQfnumber(result, "outcome");
		if (client->outcome < 0)
			client->outcome = 0;
	}
	if (PQntuples(result) != 1)
		die("%d rows instead of one", PQntuples(result));
	answer = PQgetvalue(result, 0, client->outcome);
	if (strcmp(answer, options.expected) != 0)
		die("answer \"%s\" instead of \"%s\"", answer, options.expected);
}

/* One call to PostgreSQL. */
static void
call_postgres(Client *client, const char *key)
{
	const char *values[MAX_PARAMS];

	memcpy(values, options.params, sizeof(values));
	values[0] = key;
	for (int i = 0; i < options.nstatements; i++)
	{
		char		name[] = {'s', '0' + i, '\0'};
		PGresult   *result;

		if (client->statement_params[i] == MAX_PARAMS && values[MAX_PARAMS - 1] == NULL)
		{
			make_uuid(client, 4, client->uuid);
			values[MAX_PARAMS - 1] = client->uuid;
		}
		result = PQexecPrepared(client->postgres, name, client->statement_params[i],
								values, NULL, NULL, 0);
		if (PQresultStatus(result) != PGRES_COMMAND_OK &&
			PQresultStatus(result) != PGRES_TUPLES_OK)
			die("%s", PQerrorMessage(client->postgres));
		if (i == 0 && options.nstatements == 1)
			check_postgres(client, result);
		PQclear(result);
	}
}

/* One call to Redis. */
static void
call_redis(Client *client, const char *key)
{
	const char *argv[3] = {options.statements[0], key, options.statements[1]};
	redisReply *reply = redisCommandArgv(client->redis, options.nstatements + 1,
										 argv, NULL);

	if (reply == NULL)
		die("%s", client->redis->errstr);
	if (reply->type != REDIS_REPLY_STRING && reply->type != REDIS_REPLY_STATUS)
		die("unexpected reply of type %d", reply->type);
	if (options.expected != NULL && strcmp(reply->str, options.expected) != 0)
		die("answer \"%s\" instead of \"%s\"", reply->str, options.expected);
	freeReplyObject(reply);
}

/* One call, if there is a key for it. */
static bool
call(Client *client)
{
	const char *key = next_key(client);

	if (key == NULL)
		return false;
	if (options.redis)
		call_redis(client, key);
	else
		call_postgres(client, key);
	return true;
}

/* Is there time, or are there calls, for one more? */
static bool
may_go_on(const Result *result)
{
	if (options.calls == 0)
		return seconds_of(CLOCK_MONOTONIC) < result->begin + options.seconds;
	return __atomic_fetch_add(&shared->next_call, 1, __ATOMIC_RELAXED) < options.calls;
}

/* Waits until the next call is due. */
static void
wait_for_turn(const Result *result)
{
	if (options.rate > 0)
		sleep_until(result->begin + result->calls * options.clients / options.rate);
}

/* One client's life. */
static void
run_client(int number)
{
	Client		client = {.outcome = -1};
	Result	   *result = &shared->results[number];
	double		cpu;

	client.random = (uint64_t) (seconds_of(CLOCK_REALTIME) * 1e9) ^ ((uint64_t) number << 56);
	if (options.redis)
		connect_redis(&client);
	else
		connect_postgres(&client);
	if (options.warm_up < 0)
		options.warm_up = options.calls == 0 ? WARM_UP_CALLS : 0;
	for (long i = 0; i < options.warm_up; i++)
		call(&client);
	pthread_barrier_wait(&shared->ready);
	result->begin = seconds_of(CLOCK_MONOTONIC);
	cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
	while (may_go_on(result) && call(&client))
	{
		result->calls++;
		wait_for_turn(result);
	}
	result->end = seconds_of(CLOCK_MONOTONIC);
	result->cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	PQfinish(client.postgres);
	if (client.redis)
		redisFree(client.redis);
}

/* Makes the memory that the clients share. */
static void
make_shared(void)
{
	pthread_barrierattr_t attributes;

	shared = mmap(NULL, sizeof(Shared), PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		die("could not map memory: %s", strerror(errno));
	pthread_barrierattr_init(&attributes);
	pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	pthread_barrier_init(&shared->ready, &attributes, options.clients);
}

/* Starts the clients and waits for them.  One that fails ends all. */
static void
run_clients(void)
{
	int			status;

	setpgid(0, 0);
	for (int i = 0; i < options.clients; i++)
	{
		pid_t		pid = fork();

		if (pid == 0)
		{
			run_client(i);
			exit(0);
		}
		if (pid < 0)
			kill(0, SIGKILL);
	}
	while (wait(&status) > 0)
		if (status != 0)
			kill(0, SIGKILL);	/* the others may be waiting for it */
}

/* Prints what all clients together have done. */
static void
print_results(void)
{
	Result		sum = shared->results[0];

	for (int i = 1; i < options.clients; i++)
	{
		const Result *one = &shared->results[i];

		sum.calls += one->calls;
		sum.cpu += one->cpu;
		sum.begin = one->begin < sum.begin ? one->begin : sum.begin;
		sum.end = one->end > sum.end ? one->end : sum.end;
	}
	printf("%ld %.6f %.6f\n", sum.calls, sum.end - sum.begin, sum.cpu);
}

/* Reads one option. */
static void
read_option(int option, const char *value)
{
	switch (option)
	{
		case 'c':
			options.clients = atoi(value);
			break;
		case 's':
			options.seconds = atof(value);
			break;
		case 'n':
			options.calls = atol(value);
			break;
		case 'w':
			options.warm_up = atol(value);
			break;
		case 'r':
			options.rate = atof(value);
			break;
		case 'k':
			options.keys = value;
			break;
		case 'o':
			options.once = true;
			break;
		case 'e':
			options.expected = value;
			break;
		case 'p':
			if (options.nparams == MAX_PARAMS)
				die("too many parameters");
			options.params[options.nparams++] = strcmp(value, "\\N") == 0 ? NULL : value;
			break;
		default:
			die("see the head of client.c");
	}
}

/* Reads the command line. */
static void
read_arguments(int argc, char **argv)
{
	int			option;

	while ((option = getopt(argc, argv, "+c:s:n:w:r:k:oe:p:")) != -1)
		read_option(option, optarg);
	if (options.clients < 1 || options.clients > MAX_CLIENTS)
		die("1 to %d clients", MAX_CLIENTS);
	if (argc - optind < 3 || argc - optind > 2 + MAX_STATEMENTS)
		die("see the head of client.c");
	options.redis = strcmp(argv[optind], "redis") == 0;
	options.target = argv[optind + 1];
	options.nstatements = argc - optind - 2;
	if (options.redis && options.nstatements > 2)
		die("a command and a value");
	memcpy(options.statements, argv + optind + 2, options.nstatements * sizeof(char *));
	if (strcmp(options.keys, "uuid7") != 0 && strcmp(options.keys, "random") != 0)
		read_keys(options.keys);
}

int
main(int argc, char **argv)
{
	read_arguments(argc, argv);
	make_shared();
	run_clients();
	print_results();
	return 0;
}
