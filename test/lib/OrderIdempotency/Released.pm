# The version 1.0 that was released, built anew.
#
# Its sources lie beside the tests (data/), made from the commit that released it by
#	git archive --prefix=order_idempotency-1.0/ 5667fcb Makefile LICENSE
#		order_idempotency.control order_idempotency--1.0.sql scripts/exports
#		src ':!src/README' | gzip -9n
# rather than taken from git, since a shallow clone and a release's archive
# have no history.  It knows PostgreSQL 15 only.

package OrderIdempotency::Released;

use strict;
use warnings;

use Exporter 'import';
use File::Basename qw(dirname);
use FindBin;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(release_builds install_release);

my ($major) = `pg_config --version` =~ /^PostgreSQL ([0-9]+)/;

# Whether it can be built with this PostgreSQL.
sub release_builds
{
	return $major == 15;
}

# A copy of this PostgreSQL with the release in it; returns the directory above
# its programs.
sub install_release
{
	my $top = dirname(dirname($FindBin::RealBin));
	my $dir = $PostgreSQL::Test::Utils::tmp_check;
	my $machine = "/usr/lib/postgresql/$major/bin";

	system_or_bail('tar', '-C', $dir, '-xzf', "$top/test/data/order_idempotency-1.0.tar.gz");
	local $ENV{PG_MAJOR} = $major;
	local $ENV{PG_CONFIG} = "$dir/root$machine/pg_config";
	local $ENV{OI_SHOWN} = $dir;
	local $ENV{OI_COVERAGE} = 'no';
	local $ENV{OI_CHECKED} = '';    # the machine's server
	system_or_bail('sh', '-c', 'cd "$1" && exec "$2" "$3"', 'sh', "$dir/order_idempotency-1.0",
		"$top/scripts/private-root", "$dir/root");
	return dirname("$dir/root$machine");
}

1;
