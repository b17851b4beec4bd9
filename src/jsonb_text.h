/*-------------------------------------------------------------------------
 *
 * jsonb_text.h
 *		The text of a jsonb value.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_JSONB_TEXT_H
#define OI_JSONB_TEXT_H

#include "lib/stringinfo.h"
#include "utils/jsonb.h"

extern void oi_json_append_string(StringInfo out, const char *string, int len);
extern void oi_jsonb_append(StringInfo out, Jsonb *value);

#endif							/* OI_JSONB_TEXT_H */
