/*-------------------------------------------------------------------------
 *
 * shared_options.h
 *		Reading options, which the validators have checked.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SHARED_OPTIONS_H
#define SHARED_OPTIONS_H

#include "order_sink.h"

extern const char *oi_option_text(List *options, const char *name, const char *otherwise);
extern int	oi_option_number(List *options, const char *name, int otherwise);
extern bool oi_option_boolean(List *options, const char *name, bool otherwise);

#endif							/* SHARED_OPTIONS_H */
