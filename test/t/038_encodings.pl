# What a file gets is valid UTF-8 and whole JSON in a database of any encoding,
# and an event that cannot be put into UTF-8 holds up none behind it.
#
# Bugs that this catches: bytes of the database's encoding in the file; a
# conversion that needs a transaction while there is none; an event that fails for
# ever.

use strict;
use warnings;

use Encode ();
use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_drain_node('encodings');
my $api = 'order_idempotency';

# encoding, an expression for a key in it, the key as it has to come out
my @cases = (
	[ 'UTF8', q(U&'\\00e9\\20ac\\+01f600'), "\x{e9}\x{20ac}\x{1f600}" ],
	[ 'LATIN1', q(U&'\\00e9\\00df'), "\x{e9}\x{df}" ],
	[ 'WIN1252', q(U&'\\20ac'), "\x{20ac}" ],
	[ 'EUC_JP', q(U&'\\65e5\\672c'), "\x{65e5}\x{672c}" ],
	[ 'SQL_ASCII', q(E'\\xc3\\xa9'), "\x{e9}" ],
	[ 'SQL_ASCII', q(E'a\\xe9b\\xff'), "a\x{fffd}b\x{fffd}" ],
	# a place of EUC_JP that has no character
	[ 'EUC_JP', q(E'a\\xa9\\xa1b'), "a\x{fffd}b" ]);
my $number = 0;

foreach my $case (@cases)
{
	my ($encoding, $key, $expected) = @$case;
	my $db = 'encoding_' . ++$number;
	my $what = "$encoding, case $number";

	$node->safe_psql('postgres',
		"CREATE DATABASE $db ENCODING '$encoding' LOCALE 'C' TEMPLATE template0");
	create_extension($node, $db);
	create_sink($node, $db);
	subscribe($node, 'audit', db => $db, topic => "'$db.jsonl'");
	$node->safe_psql($db, <<~SQL);
		SET client_encoding = '$encoding';
		SELECT $api.emit_event('type-' || $key, $key, jsonb_build_object('k', $key),
			jsonb_build_object('tenant', $key));
		SELECT $api.emit_event('next', 'next');
		SQL
	drained($node, 'audit', $db);

	my @events = read_events($node, "$db.jsonl");
	ok(Encode::decode('UTF-8', slurp_file(sink_dir($node) . "/$db.jsonl"),
			Encode::FB_QUIET | Encode::LEAVE_SRC) ne '', "$what: valid UTF-8");
	is(scalar @events, 2, "$what: both events");
	is($events[0]{subject}, $expected, "$what: key");
	is($events[0]{type}, "type-$expected", "$what: type");
	is($events[0]{tenant}, $expected, "$what: header");
	is($events[0]{data}{k}, $expected, "$what: payload");
	is($events[1]{subject}, 'next', "$what: the event behind it");
	$node->safe_psql('postgres', "DROP DATABASE $db WITH (FORCE)");
}
done_testing();
