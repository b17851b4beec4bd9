/*-------------------------------------------------------------------------
 *
 * redis_lookup.c
 *		The addresses of a host, without waiting for a name server.
 *
 * A name is looked up by a thread of the C library, which is started with all
 * signals blocked and touches nothing of the server's.  One that is given up while
 * it runs is left behind, with the memory that it writes to: to wait for a
 * silent name server would hold up the worker.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "redis_lookup.h"

struct RedisLookup
{
	struct gaicb request;
	struct addrinfo hints;
	struct addrinfo *found;		/* of an address that needs no looking up */
	char		host[NI_MAXHOST];
};

/*
 * Begin to look up a host, which may be an address.  The memory is not the
 * server's, since a thread may outlive everything else that knows of it.
 */
RedisLookup *
redis_lookup_start(const char *host)
{
	RedisLookup *lookup = calloc(1, sizeof(RedisLookup));
	struct gaicb *list[1];
	sigset_t	all;
	sigset_t	mask;
	int			failed;

	if (lookup == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	strlcpy(lookup->host, host, sizeof(lookup->host));
	lookup->hints.ai_socktype = SOCK_STREAM;
	lookup->hints.ai_flags = AI_NUMERICHOST;
	if (getaddrinfo(lookup->host, NULL, &lookup->hints, &lookup->found) == 0)
		return lookup;

	lookup->found = NULL;
	lookup->hints.ai_flags = 0;
	lookup->request.ar_name = lookup->host;
	lookup->request.ar_request = &lookup->hints;
	list[0] = &lookup->request;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &mask);
	failed = getaddrinfo_a(GAI_NOWAIT, list, 1, NULL);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	if (failed != 0)
	{
		free(lookup);
		ereport(ERROR,
				(errcode(ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION),
				 errmsg("could not look up host \"%s\": %s", host, gai_strerror(failed))));
	}
	return lookup;
}

/*
 * Is there an answer?
 */
bool
redis_lookup_is_over(const RedisLookup *lookup)
{
	return lookup->found != NULL ||
		gai_error(unconstify(struct gaicb *, &lookup->request)) != EAI_INPROGRESS;
}

/*
 * What was found, or NULL and why not.
 */
const struct addrinfo *
redis_lookup_addresses(const RedisLookup *lookup, const char **error)
{
	int			failed;

	if (lookup->found != NULL)
		return lookup->found;
	failed = gai_error(unconstify(struct gaicb *, &lookup->request));
	if (failed != 0)
		*error = gai_strerror(failed);
	return failed == 0 ? lookup->request.ar_result : NULL;
}

/*
 * Let go of a lookup, which may be under way.
 */
void
redis_lookup_end(RedisLookup *lookup)
{
	if (!redis_lookup_is_over(lookup) && gai_cancel(&lookup->request) == EAI_NOTCANCELED)
		return;
	if (lookup->found != NULL)
		freeaddrinfo(lookup->found);
	if (lookup->request.ar_result != NULL)
		freeaddrinfo(lookup->request.ar_result);
	free(lookup);
}
