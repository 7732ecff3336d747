// Package fake is an engine in memory. What its containers do is written in
// the specs themselves: a few words of shell, of which these are known
//
//	exit N, true, false, :          as in a shell
//	echo WORDS, print WORDS         a line; > FILE, >> FILE and >&2 work
//	sleep 10, sleep 200ms           time passes
//	cat [FILE], test -e|-f|-d FILE  mounts, Files and the own layer are seen
//	mkdir, rm, touch, pwd, env, whoami
//	trap '' TERM                    the stop signal is ignored from here on
//	export K=V, export -p, eval, shift, set --, trap WORDS EXIT, $1, $?
//	block                           until Release(id)
//	oom                             it ran out of memory
//	fail-machinery                  the call fails, not the container
//
// joined by ";", "&&", "||" or line ends, in $NAME of the environment, as the
// last argument of a sh or as a command of its own. What else is started is
// not there: 127. Services run on when their words are used up, until they are
// stopped, and words that are not known do nothing in them, so that any command
// of a true service will do; only missing-program is not there for them either.
//
// Builds read their Dockerfile: FROM, RUN (the same words), COPY (what it names
// must be there), ARG, ENV, WORKDIR, USER, CMD, ENTRYPOINT, EXPOSE, VOLUME,
// LABEL, STOPSIGNAL. Images are true OCI manifests with a true configuration
// and a layer that stands for their content.
//
// An Engine is one life of a server. Reopen ends it as a kill -9 would and gives
// the next one on the same world: containers have gone on meanwhile, builds and
// waiting calls have not.
package fake
