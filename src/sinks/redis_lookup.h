/*-------------------------------------------------------------------------
 *
 * redis_lookup.h
 *		The addresses of a host, without waiting for a name server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REDIS_LOOKUP_H
#define REDIS_LOOKUP_H

#include <netdb.h>

#include "redis_connection.h"

extern RedisLookup *redis_lookup_start(const char *host);
extern bool redis_lookup_is_over(const RedisLookup *lookup);
extern const struct addrinfo *redis_lookup_addresses(const RedisLookup *lookup, const char **error);
extern void redis_lookup_end(RedisLookup *lookup);

#endif							/* REDIS_LOOKUP_H */
