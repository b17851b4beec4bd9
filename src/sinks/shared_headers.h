/*-------------------------------------------------------------------------
 *
 * shared_headers.h
 *		Names and values of header lines.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SHARED_HEADERS_H
#define SHARED_HEADERS_H

#include "lib/stringinfo.h"

/* the attributes that nearly every event has, as headers with a prefix */
#define OI_HEADERS_USUAL 8
#define OI_HEADERS_NAMES(prefix) { \
	prefix "specversion", prefix "id", prefix "source", prefix "type", \
	prefix "subject", prefix "time", prefix "partitionkey", prefix "sequence" \
}

extern void oi_headers_append_value(StringInfo line, const char *value);
extern const char *oi_headers_value(const char *value);
extern const char *oi_headers_name(const char *const *usual, const char *prefix, const char *name);

#endif							/* SHARED_HEADERS_H */
