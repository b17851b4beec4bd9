/*-------------------------------------------------------------------------
 *
 * bare.h
 *		What the programs on bare client libraries have in common.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BARE_H
#define BARE_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "../common.h"

/* the attributes of an event, in the order in which sinks send them */
typedef enum Attribute
{
	SPECVERSION,
	ID,
	SOURCE,
	TYPE,
	SUBJECT,
	TIME,
	PARTITIONKEY,
	SEQUENCE,
	DATACONTENTTYPE,
	ATTRIBUTES
} Attribute;

typedef struct Event
{
	const char *value[ATTRIBUTES];
	const char *payload;
	size_t		payload_size;
	long		created_at;		/* seconds since 1970 */
} Event;

typedef struct Options
{
	const char *target;			/* where the broker is */
	const char *topic;			/* topic, queue, stream, subject, path or file name */
	const char *transactional_id;	/* of Kafka; NULL: no transactions */
	int			batch;			/* events that one transaction, script or write has */
	int			in_flight;		/* events that may be without an answer */
} Options;

extern Options options;

/* main.c */
extern int	port_of_target(void);

/* one file for each library */
extern void publisher_open(void);

/* returns when each event was acknowledged; ends the process if one was not */
extern void publish(const Event *events, int n);

#endif							/* BARE_H */
