package pipeline

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"slipway/engine"
	"slipway/secret"
)

func tooLong(word string) bool { return len(word) > secret.MaxWord }

// maxCommands is how long inline_commands may be, in bytes.
const maxCommands = 1 << 20

// commandsFile is where a shell finds commands that are too long for an argument. In
// /dev it leaves nothing in the container's own files.
const commandsFile = "/dev/slipway-commands"

// runsScript tells whether a command is a script for a shell.
func runsScript(entrypoint, command []string) bool {
	return len(command) == 1 && len(entrypoint) > 0 && isShell(entrypoint) && entrypoint[len(entrypoint)-1] == "-c"
}

// filed gives a shell commands that are too long for an argument as a file, which it
// reads as its own words.
func filed(entrypoint, command []string) ([]string, []engine.File) {
	if !runsScript(entrypoint, command) || !tooLong(command[0]) {
		return command, nil
	}
	return []string{". " + commandsFile}, []engine.File{{Path: commandsFile, Mode: 0o444, Content: []byte(command[0])}}
}

// fits tells why no program can be started with these variables and words.
func fits(env, entrypoint, command []string) error {
	if err := envFits("variable", env); err != nil {
		return err
	}
	for i, w := range slices.Concat(entrypoint, command) {
		if tooLong(w) {
			name := "entrypoint"
			if i >= len(entrypoint) {
				name = "inline_commands"
			}
			return fmt.Errorf("%s: an argument has %d bytes, and no program can be started with one of more than %d; put it into a file of the repository",
				name, len(w), secret.MaxWord)
		}
	}
	return nil
}

// envFits is fits for KEY=value alone; what says what they are.
func envFits(what string, env []string) error {
	for _, e := range env {
		if tooLong(e) {
			key, _, _ := strings.Cut(e, "=")
			return fmt.Errorf("the %s %s has %d bytes with its name: no program can be started with more than %d; put it into a file, as a variable of type FILE",
				what, key, len(e), secret.MaxWord)
		}
	}
	return nil
}

// named tells why an image cannot be called what its build says: names are listed by
// the registry, and told in events.
func (b Build) named(v *values) error {
	type field struct {
		name  string
		texts []string
	}
	fields := []field{{"docker_image_tag", []string{b.Tag}}, {"repository", []string{b.Repository}}}
	if b.Location != LocationPackage { // there they say which image is taken
		fields = append(fields, field{"package", []string{b.Package}}, field{"versions", b.Versions})
	}
	for _, f := range fields {
		for _, text := range f.texts {
			if k := v.secretIn(text); k != "" {
				return fmt.Errorf("%s: the secret variable %s would be in the name of the image, which all who may list the registry can read: "+
					"name it by a variable that is not encrypted", f.name, k)
			}
		}
	}
	return nil
}

// public tells why build arguments cannot be used: they are kept in the image
// and told with it.
func (b Build) public(v *values, args map[string]string) error {
	for _, a := range b.Args {
		name := v.secretIn(a)
		if k := strings.TrimSpace(v.expand(a)); name == "" && v.secret[k] { // its value is that of the variable
			name = k
		}
		if name != "" {
			return fmt.Errorf("build_args: the secret variable %s would be kept in the image, where all who have it can read it: "+
				"give it as a build secret (in secrets, with type ENV and value %s) and mount that in the step that needs it", name, name)
		}
	}
	env := make([]string, 0, len(args))
	for _, k := range slices.Sorted(maps.Keys(args)) {
		env = append(env, k+"="+args[k])
	}
	return envFits("build argument", env)
}
