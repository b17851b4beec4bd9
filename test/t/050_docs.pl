# The documentation is true: every example in README.md and docs/ is run and
# answers what is shown there, every link leads somewhere, and the reference has
# the signature of each function, each setting with its default and bounds, each
# column of each table, view and type; and each case in docs/why.md is shown by a
# test that is there and has the check that is named.
#
# Bugs that this catches: an example that was written and never run; a setting,
# column or argument that was renamed or added in the code alone; a test that was
# taken away, or whose check was, while the page still names it.
#
# docs/writing-a-sink.md has a test of its own (041_writing_a_sink.pl).
#
# A block ```psql is a transcript of one session per page: commands behind a
# prompt, then their output.  A block ```sql is run and must raise no error.
# Values that differ from run to run (UUIDs, times) and the width of columns are
# left out of the comparison.  A worker takes its time, so queries of
# subscription_status and subscription_stats, and commands of the shell, are asked again until the answer
# is the one that is shown.

use strict;
use warnings;

use File::Basename qw(dirname);
use File::Spec;
use FindBin;
use IPC::Run;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

my $top = File::Spec->catdir($FindBin::RealBin, '..', '..');
my @pages = ("$top/README.md", sort glob "$top/docs/*.md");
my $reference = slurp_file("$top/docs/reference.md");

# what the pages call the database, and the directory of their file sink
my $database = 'shop';
my $directory = '/srv/events';

my $node = new_node('docs');

# -- a session that answers one command at a time -----------------------------

# Starts psql as a reader of the page would, but with its own directory for
# files.
sub start_session
{
	my ($db) = @_;
	my $s = {
		in => '', out => '', err => '', asked => 0,
		files => PostgreSQL::Test::Utils::tempdir,
		timer => IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default) };

	$s->{psql} = IPC::Run::start(
		[ $node->installed_command('psql'), '-X', '-P', 'pager=off', '-d',
			$node->connstr($db) ],
		'<', \$s->{in}, '>', \$s->{out}, '2>', \$s->{err}, $s->{timer});
	return $s;
}

# Ends it.
sub end_session
{
	my ($s) = @_;

	$s->{psql}->finish;
	return;
}

# Sends a command and returns what came of it: messages first, then results.
sub ask
{
	my ($s, $command) = @_;
	my $end = 'end of answer ' . ++$s->{asked};

	$command =~ s/\Q$directory\E/$s->{files}/g;
	$s->{timer}->start;
	$s->{in} .= "$command\n\\echo '$end'\n\\warn '$end'\n";
	$s->{psql}->pump
	  until $s->{out} =~ /^\Q$end\E\n/m && $s->{err} =~ /^\Q$end\E\n/m;

	my $answer = $s->{err} . $s->{out};
	$s->{$_} = '' foreach qw(out err);
	$answer =~ s/^\Q$end\E\n//mg;
	$answer =~ s/\Q$s->{files}\E/$directory/g;
	return $answer;
}

# An answer without what differs from run to run.
sub normalise
{
	my ($answer) = @_;

	$answer =~ s/\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b/UUID/g;
	$answer =~ s/\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d)?/TIME/g;
	$answer =~ s/-{3,}/---/g;
	$answer =~ s/[ \t]+/ /g;
	$answer =~ s/ +$//mg;
	$answer =~ s/\n{2,}/\n/g;
	return $answer =~ s/\A\n+|\n+\z//gr;
}

# -- pages ---------------------------------------------------------------------

# The blocks of code in a page, as [language, line number, lines].
sub blocks
{
	my ($text) = @_;
	my (@blocks, $open);
	my $number = 0;

	foreach my $line (split /\n/, $text)
	{
		$number++;
		if (!$open)
		{
			$open = [ $1, $number + 1 ] if $line =~ /^```(\w*)/;
		}
		elsif ($line =~ /^```/)
		{
			push @blocks, $open;
			$open = undef;
		}
		else
		{
			push @$open, $line;
		}
	}
	return @blocks;
}

# The commands of a transcript, as [line number, command, shown answer].
sub commands
{
	my ($number, @lines) = @_;
	my @commands;

	foreach my $line (@lines)
	{
		if ($line =~ /^\w+=\*?[#>] (.*)/)
		{
			push @commands, [ $number, $1, '' ];
		}
		elsif ($line =~ /^\w+[-('"]\*?[#>] (.*)/ && @commands)
		{
			$commands[-1][1] .= "\n$1";
		}
		elsif (@commands)
		{
			$commands[-1][2] .= "$line\n";
		}
		else
		{
			push @commands, [ $number, '', $line ];
		}
		$number++;
	}
	return @commands;
}

# Runs a command of a transcript.  Returns what is wrong, or nothing.
sub check_command
{
	my ($s, $number, $command, $shown) = @_;
	my $patient = $command =~ /^\\!|subscription_stat/;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my $wanted = normalise($shown);
	my $got;

	return "line $number: output without a command" if $command eq '';
	return "line $number: command is not complete"
	  if $command !~ /^\\/ && $command !~ /;\s*(--[^\n]*)?\z/;
	while (1)
	{
		$got = normalise(ask($s, $command));
		return if $got eq $wanted;
		last if !$patient || time > $deadline;
		Time::HiRes::sleep(0.05);
	}
	return "line $number: $command\nshown:\n$wanted\nanswered:\n$got\n";
}

# Runs all examples of a page.  Returns how many there were, and what is wrong.
sub run_examples
{
	my ($s, $text) = @_;
	my $count = 0;
	my @wrong;

	foreach my $block (blocks($text))
	{
		my ($language, $number, @lines) = @$block;

		if ($language eq 'psql')
		{
			my @commands = commands($number, @lines);

			push @wrong, map { check_command($s, @$_) } @commands;
			$count += @commands;
		}
		elsif ($language eq 'sql')
		{
			my $answer = ask($s, join "\n", @lines);

			push @wrong, "line $number: $answer" if $answer =~ /^(ERROR|FATAL):/m;
			push @wrong, "line $number: the last command is not complete"
			  if $lines[-1] !~ /;$/;
			$count++;
		}
	}
	return ($count, @wrong);
}

# Runs a piece of a page in a session of its own.  Returns how much is wrong.
sub wrong_in
{
	my ($text) = @_;
	my $s = start_session('postgres');
	my ($count, @wrong) = run_examples($s, $text);

	end_session($s);
	return scalar @wrong;
}

# -- first of all: are mistakes found? ----------------------------------------

sub transcript
{
	return join "\n", '```psql', @_, '```';
}

my @one = ('shop=# SELECT 1 AS n;', ' n', '---', ' 1', '(1 row)', '');

is(wrong_in(transcript(@one, @one)), 0, 'a true transcript is true');
is(wrong_in(transcript('shop=# SELECT 1', 'shop-#   AS n;', @one[ 1 .. 4 ])),
	0, 'so is one of several lines');
is(wrong_in(transcript(@one[ 0 .. 2 ], ' 2', '(1 row)')),
	1, 'another value is found');
is(wrong_in(transcript(@one[ 0 .. 3 ])), 1, 'a missing line is found');
is(wrong_in(transcript('shop=# SELECT 1 AS n;')), 1, 'missing output is found');
is(wrong_in(transcript('shop=# SELECT 1 / 0;')), 1,
	'an error that is not shown is found');
is( wrong_in(
		transcript('shop=# SELECT 1 AS n;', 'ERROR:  division by zero')),
	1,
	'an error that does not come is found');
is(wrong_in(transcript('shop=# SELECT 1 / 0;', 'ERROR:  division by zero')),
	0, 'one that is shown and comes is true');
is(wrong_in(transcript('shop=# SELECT 1 AS n')), 1,
	'a command that is not complete is found');
is(wrong_in(transcript('(1 row)', @one)), 1,
	'output without a command is found');
is( wrong_in(
		transcript(
			'shop=# SELECT now() AS t, gen_random_uuid() AS u;',
			' t | u',
			'----+----',
			' 2020-01-01 00:00:00+00 | 01a20177-bec2-74c2-9f11-7ab6887aa2c5',
			'(1 row)')),
	0,
	'times and UUIDs may differ');
is(wrong_in("```sql\nSELECT 1;\n```"), 0, 'SQL that runs is fine');
is(wrong_in("```sql\nSELECT 1 / 0;\n```"), 1, 'SQL that fails is found');
is(wrong_in("```sql\nSELECT 1\n```"), 1, 'SQL without its end is found');
is(wrong_in("```python\nSELECT 1 / 0;\n```"), 0, 'other languages are not run');

# -- the examples --------------------------------------------------------------

foreach my $page (@pages)
{
	my $name = File::Spec->abs2rel($page, $top);
	my ($s, $count, @wrong);

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$s = start_session($database);
	($count, @wrong) = run_examples($s, slurp_file($page));
	end_session($s);
	is(join("\n", @wrong), '', "$name: all $count examples are true");
	cmp_ok($count, '>', 10, "$name has examples")
	  if $page !~ m{/docs/(README|coverage|why|writing-a-sink)\.md$};
	$node->safe_psql('postgres', "DROP DATABASE $database");
}

# -- links ---------------------------------------------------------------------

# The anchors of a page, made from its headings as Git forges do.
sub anchors
{
	my ($text) = @_;
	my (%seen, @anchors);

	$text =~ s/^```.*?^```$//gms;
	while ($text =~ /^#+ (.*)$/mg)
	{
		my $anchor = lc $1;

		$anchor =~ s/[^\w\- ]//g;
		$anchor =~ tr/ /-/;
		push @anchors, $anchor . ($seen{$anchor} ? "-$seen{$anchor}" : '');
		$seen{$anchor}++;
	}
	return @anchors;
}

# The links of a page that lead nowhere; those to other sites are not followed.
sub dead_links
{
	my ($page) = @_;
	my $text = slurp_file($page);
	my @dead;

	$text =~ s/^```.*?^```$//gms;
	while ($text =~ /\]\(([^)\s]+)\)/g)
	{
		my ($file, $anchor) = split /#/, $1, 2;
		my $target = $file eq '' ? $page : dirname($page) . "/$file";

		next if $file =~ /^https?:/;
		push @dead, $1
		  if !-e $target
		  || defined $anchor
		  && !grep { $_ eq $anchor } anchors(slurp_file($target));
	}
	return @dead;
}

is_deeply([ anchors("# A b, c!\n## `x_y`\n### x_y\n") ],
	[qw(a-b-c x_y x_y-1)], 'anchors are made as forges make them');
is(join(' ', dead_links($_)),
	'', File::Spec->abs2rel($_, $top) . ': every link leads somewhere')
  foreach @pages;

# -- the tests that docs/why.md names -------------------------------------------

# What a test says that it checks: of an isolation spec its comments, of others
# all but these.
sub checks_of
{
	my ($file) = @_;
	my @lines = split /\n/, slurp_file($file);

	return join "\n", $file =~ /\.spec$/ ? grep { /^# / } @lines : grep { !/^\s*(#|--)/ } @lines;
}

# What is wrong with the cases of a page: each needs a test, and each test a check
# that it has.
sub unshown
{
	my ($page, $text) = @_;
	my @wrong;

	$text =~ s/^```.*?^```$//gms;
	my (undef, @cases) = split /^### /m, $text =~ s/^## /### ## /gmr;
	foreach my $case (grep { !/^## / } @cases)
	{
		my ($title, $tests) = $case =~ /\A([^\n]*)\n.*\*\*Shown by\*\*(.*)/s;
		my $count = 0;

		push(@wrong, $case =~ s/\n.*//sr . ': shown by nothing'), next if !defined $tests;
		while ($tests =~ /\]\(([^)]+)\):((?:,?\s*"[^"]+")+)/g)
		{
			my ($file, $names) = (dirname($page) . "/$1", $2);

			$count++;
			foreach my $name ($names =~ /"([^"]+)"/g)
			{
				push @wrong, "$title: $file has no \"$name\""
				  if !-e $file || index(checks_of($file), $name) < 0;
			}
		}
		push @wrong, "$title: a test without a check, or none"
		  if !$count || $count != (() = $tests =~ /\]\(/g);
	}
	return @wrong;
}

my $why = "$top/docs/why.md";
my $this = '**Shown by** [050_docs](../test/t/050_docs.pl)';

is(unshown($why, "### One\n$this: \"another value is found\".\n"), 0, 'a case with a check that is there');
is(unshown($why, "### One\n$this: \"another value is " . 'lost".' . "\n"), 1, 'a check that is not there is found');
is(unshown($why, "### One\n$this.\n"), 1, 'a test without a check is found');
is(unshown($why, "### One\n**Shown by** [gone](../test/t/gone.pl): \"x\".\n"), 1, 'a test that is gone is found');
is(unshown($why, "### One\n\n### Two\n$this: \"another value is found\".\n"), 1, 'a case without a test is found');
is(join("\n", unshown($why, slurp_file($why))), '', 'docs/why.md: every case is shown by a test that is there');
cmp_ok(() = slurp_file($why) =~ /^### /mg, '>', 25, 'of which there are many');

# -- the reference and the catalogs ---------------------------------------------

# The rows of the tables in a section, as lists of cells, with the code's
# quotes taken off.
sub rows
{
	my ($section) = @_;
	my @rows;

	while ($section =~ /^\| (.*) \|$/mg)
	{
		my @cells = split /\s*\|\s*/, $1, -1;

		s/`//g foreach @cells;
		push @rows, \@cells;
	}
	return @rows;
}

# A section of the reference, from its heading to the next of its level.
sub section
{
	my ($heading) = @_;
	my ($level) = $heading =~ /^(#+)/;

	return $reference =~ /^\Q$heading\E\n(.*?)(?=^$level [^#]|\z)/ms ? $1 : '';
}

# Sorted lines, of a list or of a query.
sub sorted
{
	return join "\n", sort @_;
}

sub query
{
	my ($sql) = @_;

	return split /\n/, $node->safe_psql('postgres', $sql);
}

my @settings = grep { $_->[0] =~ /^[a-z_]+$/ && $_->[0] ne 'setting' }
  rows(section('## Settings'));
is( sorted(map { join '|', @$_[ 0 .. 4 ] } @settings),
	sorted(
		query(
			q{SELECT substr(name, 19), unit,
					 CASE WHEN boot_val = '' THEN 'empty' ELSE boot_val END,
					 CASE vartype WHEN 'bool' THEN 'on, off'
								  WHEN 'enum' THEN array_to_string(enumvals, ', ')
								  WHEN 'string' THEN CASE name WHEN 'order_idempotency.headers'
														   THEN 'a JSON object of strings' ELSE 'any text' END
								  ELSE min_val || ' to ' || max_val END,
					 context
			  FROM pg_settings WHERE name LIKE 'order\_idempotency.%'})),
	'settings: unit, default, bounds and context');

my %documented = map { $_ => 1 } $reference =~ /`(\w+\([^`()]*\))`/g;
my @signatures = query(
	q{SELECT proname || '(' || replace(regexp_replace(regexp_replace(regexp_replace(
				regexp_replace(pg_get_function_arguments(oid), '^IN |(, )?(IN)?OUT .*', '', 'g'),
				'DEFAULT NULL::[^,]*', '= NULL', 'g'),
				E'DEFAULT (\'\\\\w+\')::text', '= \1', 'g'),
				'integer', 'int', 'g'), 'timestamp with time zone', 'timestamptz') || ')'
	  FROM pg_proc
	  WHERE pronamespace = 'order_idempotency'::regnamespace
		AND prorettype <> 'trigger'::regtype AND proname NOT LIKE '%validator'});
cmp_ok(scalar @signatures, '>', 15, 'there are functions');
is(sorted(grep { !$documented{$_} } @signatures),
	'', 'the signature of every function');

# columns by table, view and type
my %columns;
my $names = '';
foreach my $line (split /\n/, section('## Tables and views'))
{
	$names = $1 if $line =~ /^#### (.*)/;
	my ($column, $type) = $line =~ /^\| `(\w+)` \| ([^|]+) \|/ or next;
	push @{ $columns{$_} }, "$column $type" foreach $names =~ /`(\w+)`/g;
}
is( sorted(map { "$_: " . join ', ', @{ $columns{$_} } } keys %columns),
	sorted(
		query(
			q{SELECT format('%s: %s', c.relname, string_agg(format('%s %s', a.attname,
						replace(format_type(a.atttypid, a.atttypmod), 'timestamp with time zone', 'timestamptz')),
						', ' ORDER BY a.attnum))
			  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
			  WHERE c.relnamespace = 'order_idempotency'::regnamespace AND c.relkind IN ('r', 'v', 'c')
				AND a.attnum > 0 AND NOT a.attisdropped
			  GROUP BY c.relname})),
	'columns of every table, view and type');

done_testing();
