# What is released: the archive for PGXN has all that it takes to build, test and package
# the extension; the Debian packages made from it depend on what they need and on
# nothing else, and in a clean installation of PostgreSQL they are enough for orders,
# claims and deliveries, and for the regression tests.  Versions that do not agree,
# and a META.json that PGXN would refuse, are found.
#
# The archive is of the sources as they are, committed into a repository of its own;
# packages are built from the archive, and unpacked beside a copy of the machine's server.
#
# Bugs that this catches, planted and seen to fail: a library that is in two packages; a
# script of the extension that is in none; a package of a sink that does not ask for its
# client library; a program that lost its mode in the archive.

use strict;
use warnings;

use File::Basename qw(basename dirname);
use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Broker;
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = dirname(dirname($FindBin::RealBin));
my $api = 'order_idempotency';
my $major = $ENV{PG_MAJOR} || 15;
my $installed = "/usr/lib/postgresql/$major";
my $core = "postgresql-$major-order-idempotency";
my @sinks = qw(kafka nats rabbitmq redis);
my $tmp = PostgreSQL::Test::Utils::tempdir;

# packages are for servers that are installed; another major version may be under test
plan skip_all => "PostgreSQL $major is not the machine's" if !-x "$installed/bin/pg_config";
require_broker(map { [ $_, !system "command -v $_ >/dev/null" ] } qw(git unzip dh pg_buildext dpkg-deb));

# What a command that has to succeed writes.
sub output_of
{
	my ($stdout, $stderr) = run_command([@_]);

	die "@_ failed:\n$stdout\n$stderr" if $? != 0;
	return $stdout;
}

# Changes a file of a directory, runs a program there, and puts the file back.  Returns what
# the program said, or nothing if it found nothing wrong.
sub planted
{
	my ($dir, $file, $from, $to, @command) = @_;
	my $text = slurp_file("$dir/$file");
	my $changed = $text =~ s/\Q$from\E/$to/r;

	die "$file has no $from" if $changed eq $text;
	write_file("$dir/$file", $changed);
	my (undef, $stderr) = run_command([@command]);
	write_file("$dir/$file", $text);
	return $? == 0 ? '' : $stderr;
}

sub write_file
{
	my ($file, $text) = @_;

	open my $out, '>', $file or die "$file: $!";
	print $out $text;
	close $out or die "$file: $!";
	return;
}

# -- the archive ------------------------------------------------------------------

local %ENV = (%ENV, GIT_DIR => "$tmp/git", GIT_WORK_TREE => $top, GIT_CONFIG_GLOBAL => '/dev/null',
	map { ("GIT_${_}_NAME" => 'nobody', "GIT_${_}_EMAIL" => 'nobody@localhost') } qw(AUTHOR COMMITTER));
chdir $top or die;
output_of(qw(git init -q));
output_of(qw(git add -A .));
output_of(qw(git commit -q -m all));
my ($zip) = split /\n/, output_of("$top/scripts/dist");
delete @ENV{qw(GIT_DIR GIT_WORK_TREE)};
my ($version) = slurp_file("$top/Makefile") =~ /^EXTVERSION = (.*)$/m;
my $name = $version =~ /\..*\./ ? "order_idempotency-$version" : "order_idempotency-$version.0";
is($zip, "build/$name.zip", 'the archive has the name that PGXN wants');
output_of('unzip', '-q', "$top/$zip", '-d', $tmp);
unlink "$top/$zip";
my $unpacked = "$tmp/$name";
is(join(' ', map { basename($_) } glob "$tmp/order_idempotency*"), $name, 'and one directory of that name');
is(join(' ', grep { -e "$unpacked/$_" } qw(build order_idempotency.so src/claim.o)), '', 'without what builds leave');
is(join(' ', grep { !-x "$unpacked/$_" } qw(scripts/exports scripts/private scripts/run-tests debian/rules)),
	'', 'programs are programs');

# -- what names a version, and META.json -----------------------------------------------

my @checkver = ("$unpacked/scripts/checkver", $version);
is(join('', run_command([@checkver])), '', 'all name one version');
foreach my $place (
	[ 'order_idempotency.control', "default_version = '$version'", "default_version = '9.9'" ],
	[ 'META.json', "\"version\": \"$version", '"version": "9.9' ],
	[ 'CHANGELOG.md', "## $version", '## 9.9' ],
	[ 'debian/changelog', "($version-", '(9.9-' ],
	[ 'src/version.c', "OI_VERSION \"$version\"", 'OI_VERSION "9.9"' ])
{
	like(planted($unpacked, @$place, @checkver), qr/says "9\.9/, "another version in $place->[0] is found");
}

my @check = "$unpacked/scripts/check-meta";
is(join('', run_command([@check])), '', 'META.json is fit for PGXN');
foreach my $bad (
	[ '"name": "order_idempotency"', '"name": "order/idempotency"', 'a name with a slash' ],
	[ '"meta-spec": {', '"meta_spec": {', 'a member that is not known' ],
	[ '"license": "postgresql"', '"license": "PostgreSQL"', 'a license that is not known' ],
	[ '"release_status": "', '"release_status": "un', 'a status that is not known' ],
	[ '.0",', '",', 'a version that is not semantic' ],
	[ '"PostgreSQL": "15', '"PostgreSQL": "since 15', 'a range that is none' ],
	[ '"file": "order', '"file": "other', 'a file that is not there' ],
	[ '"outbox"', '"out/box"', 'a tag with a slash' ],
	[ '"maintainer": "', '"maintainer": [], "x": "', 'nobody who maintains it' ])
{
	like(planted($unpacked, 'META.json', @$bad[ 0, 1 ], @check), qr/^check-meta: /, "$bad->[2] is found");
}

# -- the packages -----------------------------------------------------------------------

$ENV{DEB_BUILD_OPTIONS} = 'noautodbgsym';
output_of("$unpacked/scripts/deb", "$tmp/deb");
my %deb = map { basename($_) =~ /^([^_]+)_/ ? ($1 => $_) : () } glob "$tmp/deb/*.deb";
my @of_major = sort grep { /^postgresql-$major-/ } keys %deb;
is("@of_major", join(' ', $core, map { "$core-$_" } @sinks), 'a package for the extension and one for each broker');

my %file;
foreach my $package (@of_major)
{
	push @{ $file{$_} }, $package foreach output_of('dpkg-deb', '-c', $deb{$package}) =~ m{/([\w.-]+\.(?:so|sql|control))$}mg;
}
my %wanted = map { basename($_) => $core } glob "$unpacked/*.control $unpacked/order_idempotency--*.sql";
$wanted{"$_.so"} = $core foreach qw(order_idempotency order_idempotency_file order_idempotency_http);
$wanted{"order_idempotency_$_.so"} = "$core-$_" foreach @sinks;
is_deeply({ map { $_ => "@{ $file{$_} }" } keys %file }, \%wanted, 'each file is in one package');

my %client = (kafka => 'librdkafka', nats => 'libnats', rabbitmq => 'librabbitmq', redis => 'libhiredis');
my $depends = output_of('dpkg-deb', '-f', $deb{$core}, 'Depends');
like($depends, qr/\bpostgresql-$major\b/, 'the extension needs the server');
like($depends, qr/\blibcurl/, 'and libcurl');
unlike($depends, qr/$_/, "but no $_") foreach sort values %client;
foreach my $sink (@sinks)
{
	like(output_of('dpkg-deb', '-f', $deb{"$core-$sink"}, 'Depends'),
		qr/\A(?=.*\b$core \(= )(?=.*\b$client{$sink})/, "$sink needs the extension and $client{$sink}");
}

# -- a clean installation ------------------------------------------------------------------

# The machine's server, moved, without anything of this extension that might be installed there.
my $root = "$tmp/root";
foreach my $what (qw(bindir pkglibdir sharedir))
{
	chomp(my $from = output_of("$installed/bin/pg_config", "--$what"));
	output_of('mkdir', '-p', "$root$from");
	output_of('sh', '-c', 'tar -C "$1" --exclude=./bitcode --exclude="*order_idempotency*" -cf - . | tar -C "$2" -xf -', 'sh',
		$from, "$root$from");
}

my $node = init_node('packages', install_path => "$root$installed", conf => "max_worker_processes = 24\n");
is(system("find '$root' -name 'order_idempotency*' | grep -q ."), 256, 'nothing of it is there');
output_of('dpkg-deb', '-x', $deb{$core}, $root);
$node->start;
create_extension($node, 'postgres');
sql_is($node, "SELECT $api.library_version()", $version, 'the library is the one that was packaged');
mkdir sink_dir($node) or die;
create_sink($node, 'postgres');
subscribe($node, 'audit');
$node->safe_psql('postgres', "CREATE ROLE shop LOGIN; SELECT $api.grant_application('shop')");
is( $node->safe_psql('postgres', slurp_file("$unpacked/test/packages/application.sql"), extra_params => [ '-U', 'shop' ]),
	slurp_file("$unpacked/test/packages/application.out") =~ s/\n\z//r,
	'what the demo does, as an application');
drained($node, 'audit');
is(join('', map { "$_->{subject} $_->{type}\n" } read_events($node, 'audit.jsonl')),
	slurp_file("$unpacked/test/packages/events.out"), 'its events are in the file');
consistent($node, 'from the packages');

# The sinks: without its package a subscription says so, with it the library is loaded, which
# looks for a broker where there is none.
my $port = free_port();
my %options = (
	kafka => qq("bootstrap.servers" '127.0.0.1:$port'),
	nats => "url 'nats://127.0.0.1:$port'",
	rabbitmq => "host '127.0.0.1', port '$port', exchange 'events'",
	redis => "host '127.0.0.1', port '$port'");

foreach my $sink (@sinks)
{
	$node->safe_psql('postgres', <<~"SQL");
		CREATE SERVER $sink FOREIGN DATA WRAPPER order_idempotency_$sink OPTIONS ($options{$sink});
		SELECT $api.create_subscription('$sink', '$sink');
		SQL
}
$node->safe_psql('postgres', "SELECT $api.emit_event('parcel.sent', 'cart-7')");
my $missing = "last_error LIKE '%could not access file \"%order_idempotency_' || name || '\"%'";
foreach my $sink (@sinks)
{
	ok(poll($node, 'postgres', "SELECT $missing FROM $api.subscription_status WHERE name = '$sink'"),
		"without its package $sink says what is missing");
	output_of('dpkg-deb', '-x', $deb{"$core-$sink"}, $root);
	$node->safe_psql('postgres', "SELECT $api.resume_subscription('$sink')");
	ok(poll($node, 'postgres', "SELECT NOT ($missing) AND last_error ~* 'connect|broker|transport' FROM $api.subscription_status WHERE name = '$sink'"),
		"with it $sink looks for its broker");
}

# -- the archive's regression tests, against the packages -------------------------------------

my @tests = map { basename($_, '.sql') } sort glob "$unpacked/sql/*.sql";
cmp_ok(scalar @tests, '>', 3, 'there are regression tests');
mkdir "$tmp/regress";
my ($stdout, $stderr) = run_command([ $ENV{PG_REGRESS}, "--inputdir=$unpacked", "--outputdir=$tmp/regress",
	"--bindir=$root$installed/bin", '--host=' . $node->host, '--port=' . $node->port, '--user=' . $node->safe_psql('postgres', 'SELECT current_user'),
	'--dbname=regress', '--encoding=UTF8', '--no-locale', "--load-extension=$api", @tests ]);
is($?, 0, 'the regression tests of the archive pass') or diag("$stdout\n$stderr");

$node->stop;
unlike(slurp_file($node->logfile), qr/TRAP|PANIC|terminated by signal/, 'nothing crashed');
done_testing();
