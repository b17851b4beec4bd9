/*-------------------------------------------------------------------------
 *
 * main.c
 *		Publishing events with nothing but a client library: what a sink is
 *		measured against.
 *
 *		LIBRARY [options] EVENTS TARGET
 *
 * EVENTS is a file with a line for each event: id, source, type, key, time, position,
 * seconds since 1970, payload, with a tab between.  It is read and taken apart before
 * the clock starts.  TARGET is host:port, a URL or a directory, as the library has it.
 *
 *		-t TOPIC	topic, queue, stream, subject, path or file name
 *		-b EVENTS	of one transaction or write (500)
 *		-f EVENTS	that may be without an answer at a time (1000)
 *		-x ID		transactional id
 *		-s EVENTS	of the file to leave out at its beginning (0)
 *		-w EVENTS	before it is counted (1000)
 *		-n EVENTS	that are counted (all)
 *		-l EVENTS	instead of all of them, one by one: prints for each how many
 *					microseconds went by until it was acknowledged
 *		-g MS		pauses between these, on average, by chance (20)
 *
 * Without -l it prints events, seconds, and the seconds of CPU that this process took.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE

#include <sys/stat.h>
#include <unistd.h>

#include "bare.h"

#define FIELDS	8

Options		options = {.topic = "bench",.batch = 500,.in_flight = 1000};

static int	skipped = 0;
static int	warm_up = 1000;
static int	counted = 0;
static int	singly = 0;
static double gap = 0.020;		/* seconds */

/* The port that is named in "host:port". */
int
port_of_target(void)
{
	const char *colon = strrchr(options.target, ':');

	return colon == NULL ? 0 : atoi(colon + 1);
}

/* All of a file, with a zero at its end. */
static char *
read_file(const char *name)
{
	FILE	   *file = fopen(name, "r");
	struct stat status;
	char	   *text;

	if (file == NULL || fstat(fileno(file), &status) != 0)
		die("could not open \"%s\"", name);
	text = malloc(status.st_size + 1);
	if (text == NULL || fread(text, 1, status.st_size, file) != (size_t) status.st_size)
		die("could not read \"%s\"", name);
	text[status.st_size] = '\0';
	fclose(file);
	return text;
}

/* Makes an event of a line, which it takes apart. */
static void
read_event(Event *event, char *line)
{
	char	   *field[FIELDS];

	for (int i = 0; i < FIELDS; i++)
		if ((field[i] = strsep(&line, "\t")) == NULL)
			die("a line has %d fields instead of %d", i, FIELDS);
	event->value[SPECVERSION] = "1.0";
	event->value[ID] = field[0];
	event->value[SOURCE] = field[1];
	event->value[TYPE] = field[2];
	event->value[SUBJECT] = event->value[PARTITIONKEY] = field[3];
	event->value[TIME] = field[4];
	event->value[SEQUENCE] = field[5];
	event->value[DATACONTENTTYPE] = "application/json";
	event->created_at = atol(field[6]);
	event->payload = field[7];
	event->payload_size = strlen(field[7]);
}

/* All events of a file. */
static Event *
read_events(const char *name, int *n)
{
	char	   *rest = read_file(name);
	char	   *line;
	int			room = 0;
	Event	   *events = NULL;

	*n = 0;
	while ((line = strsep(&rest, "\n")) != NULL && line[0] != '\0')
	{
		if (*n == room)
		{
			room = room ? 2 * room : 1024;
			events = realloc(events, room * sizeof(Event));
			if (events == NULL)
				die("out of memory");
		}
		read_event(&events[(*n)++], line);
	}
	return events;
}

/* Publishes all of them. */
static void
publish_all(const Event *events, int n)
{
	double		began = seconds_of(CLOCK_MONOTONIC);
	double		cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID);

	publish(events, n);
	printf("%d %.6f %.6f\n", n, seconds_of(CLOCK_MONOTONIC) - began,
		   seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu);
}

/* Publishes one after the other. */
static void
publish_singly(const Event *events, int n)
{
	srand48(getpid());
	for (int i = 0; i < n; i++)
	{
		double		began;

		sleep_until(seconds_of(CLOCK_MONOTONIC) + 2 * drand48() * gap);
		began = seconds_of(CLOCK_MONOTONIC);
		publish(&events[i], 1);
		printf("%.0f\n", (seconds_of(CLOCK_MONOTONIC) - began) * 1e6);
	}
}

/* Reads the command line; returns the file of events. */
static const char *
read_arguments(int argc, char **argv)
{
	int			option;

	while ((option = getopt(argc, argv, "+t:b:f:x:s:w:n:l:g:")) != -1)
	{
		if (option == 't')
			options.topic = optarg;
		else if (option == 'b')
			options.batch = atoi(optarg);
		else if (option == 'f')
			options.in_flight = atoi(optarg);
		else if (option == 'x')
			options.transactional_id = optarg;
		else if (option == 's')
			skipped = atoi(optarg);
		else if (option == 'w')
			warm_up = atoi(optarg);
		else if (option == 'n')
			counted = atoi(optarg);
		else if (option == 'l')
			singly = atoi(optarg);
		else if (option == 'g')
			gap = atof(optarg) / 1e3;
		else
			die("see the head of main.c");
	}
	if (argc - optind != 2 || options.batch < 1 || options.in_flight < 1)
		die("see the head of main.c");
	options.target = argv[optind + 1];
	return argv[optind];
}

int
main(int argc, char **argv)
{
	int			n;
	Event	   *events = read_events(read_arguments(argc, argv), &n);

	events += skipped;
	n -= skipped + warm_up;
	if (counted == 0)
		counted = n;
	if (n < counted || n < singly)
		die("there are only %d events to be counted", n);
	publisher_open();
	publish(events, warm_up);
	if (singly > 0)
		publish_singly(events + warm_up, singly);
	else
		publish_all(events + warm_up, counted);
	return 0;
}
