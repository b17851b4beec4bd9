/*-------------------------------------------------------------------------
 *
 * shared_headers.h
 *		Values in header lines.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SHARED_HEADERS_H
#define SHARED_HEADERS_H

#include "lib/stringinfo.h"

extern void oi_headers_append_value(StringInfo line, const char *value);

#endif							/* SHARED_HEADERS_H */
