/*-------------------------------------------------------------------------
 *
 * utf8.h
 *		Text for the outside world, which is UTF-8 whatever the database's is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_UTF8_H
#define OI_UTF8_H

extern char *oi_utf8_from_server(const char *text, int len);

#endif							/* OI_UTF8_H */
