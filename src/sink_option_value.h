/*-------------------------------------------------------------------------
 *
 * sink_option_value.h
 *		What options of the sinks' servers and user mappings may be.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_SINK_OPTION_VALUE_H
#define OI_SINK_OPTION_VALUE_H

#include "nodes/parsenodes.h"

/* what the value of an option has to be */
typedef enum OiOptionKind
{
	OI_KIND_BOOLEAN,
	OI_KIND_CHOICE,				/* one of some words */
	OI_KIND_HEADER_TEXT,		/* what may stand in a header line */
	OI_KIND_HOST,				/* a name or an address */
	OI_KIND_HOST_OR_SOCKET,		/* or an absolute path, which takes
								 * pg_write_server_files */
	OI_KIND_HOSTS,				/* host:port, comma-separated */
	OI_KIND_HTTP_URL,
	OI_KIND_INTEGER,			/* from least to most */
	OI_KIND_NAME,				/* of something at a receiver */
	OI_KIND_NATS_URLS,			/* comma-separated */
	OI_KIND_NETWORKS,			/* addresses or networks, comma-separated */
	OI_KIND_READABLE_FILE,		/* absolute; takes pg_read_server_files */
	OI_KIND_SECRET,				/* one line of text */
	OI_KIND_SIZE,				/* in bytes, or with a unit */
	OI_KIND_WEBHOOK_SECRET,
	OI_KIND_WRITABLE_DIRECTORY	/* absolute; takes pg_write_server_files */
} OiOptionKind;

typedef struct OiSinkOption
{
	const char *name;			/* NULL ends a list */
	OiOptionKind kind;
	bool		user;			/* of a user mapping, else of a server */
	bool		required;
	int			least;
	int			most;
	const char *choices;		/* comma-separated */
} OiSinkOption;

extern void oi_check_option_value(const OiSinkOption *option, DefElem *given);

#endif							/* OI_SINK_OPTION_VALUE_H */
