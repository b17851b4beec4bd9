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

/* bytes that any value may have as text; large ones may have more */
#define OI_JSONB_TEXT (64 * 1024 * 1024)

extern void oi_json_append_string(StringInfo out, const char *string, int len);
extern bool oi_jsonb_append(StringInfo out, Jsonb *jsonb, int most);
extern int	oi_jsonb_text_most(const Jsonb *jsonb);
extern bool oi_jsonb_text_fits(Jsonb *jsonb);

#endif							/* OI_JSONB_TEXT_H */
