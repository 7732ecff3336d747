package pipeline

import (
	"strconv"

	"slipway/registry"
)

// unsupported lists the fields of an action, in wire words, that are stored but
// not obeyed by this version. Such an action fails at its start, naming them:
// nothing is ignored in silence. A test holds this function to every field of
// the structs.
func unsupported(a Action) []string { return unsupportedVariables(a.Variables) }

// unsupportedVariables is unsupported for variables. Such ones are refused where
// they come in; those of an earlier version may have them.
func unsupportedVariables(vs []Variable) []string {
	var l []string
	for i, v := range vs {
		at := "variables." + strconv.Itoa(i) + "."
		switch v.Type {
		case "", "VAR", "FILE", "SSH_KEY", "SSH_PUBLIC_KEY", "GPG_KEY":
		default:
			l = append(l, at+"type "+v.Type)
		}
		for _, f := range []struct {
			is   bool
			name string
		}{
			{v.InitPath != "", "init_path"},
			{v.Defaults != "", "defaults"},
			{v.Password != "", "password"},
			{v.Passphrase != "", "passphrase"},
			{v.KeyIdentifier != "", "key_identifier"},
		} {
			if f.is {
				l = append(l, at+f.name)
			}
		}
	}
	return l
}

// unsupportedPipeline is unsupported for the fields of a pipeline; the first
// action of a run fails with them.
func unsupportedPipeline(p Pipeline) []string {
	var l []string
	add := func(is bool, name string) {
		if is {
			l = append(l, name)
		}
	}
	add(p.CPU == "ARM", "cpu ARM")
	add(p.Worker != "", "worker")
	return append(l, unsupportedVariables(p.Variables)...)
}

// notes lists what an action says that has no effect in its mode; they become
// lines of its log.
func notes(p Pipeline, a Action) []string {
	var l []string
	r := a.registry()
	derived := r.Kind == "" && r.Integration != nil // what it is is seen when the integration is
	if r.Integration != nil && !derived && len(registry.Types(string(r.Kind))) == 0 {
		l = append(l, "integration has no effect with docker_registry "+string(r.Kind))
	}
	if r.Region != "" && r.Effective() != AmazonECR && !derived {
		l = append(l, "region has no effect without docker_registry AMAZON_ECR")
	}
	if r.Insecure && r.Effective() != OtherRegistry {
		l = append(l, "insecure_registry has no effect without a registry of one's own (docker_registry OTHER)")
	}
	if r.Effective() == RegistryNone && !derived && (r.URL != "" || r.Username != "") {
		l = append(l, "registry, login and password have no effect with docker_registry NONE")
	}
	switch {
	case a.Build != nil:
		b := a.Build
		if b.BuildKit != nil && !*b.BuildKit {
			l = append(l, "buildkit false has no effect: there is no other builder")
		}
		if b.CacheMode != "" && !p.shares() {
			l = append(l, "cache_mode has no effect with the pipeline's cache_scope PIPELINE")
		}
		if b.TargetPath != "" {
			l = append(l, "target_path has no effect")
		}
		if b.packaged() && r.Effective().outside() {
			l = append(l, "package has no effect with docker_registry "+string(r.Effective()))
		}
		if b.copies() && (b.Dockerfile != "" || b.Context != "" || b.Target != "" || len(b.Args) > 0 || len(b.Secrets) > 0) {
			l = append(l, "no Dockerfile is run, because the image is taken from elsewhere (image_location, use_image_from_action): what is for one has no effect")
		}
	case a.Run != nil && a.Run.NoMount:
		if len(a.Run.Mounts) > 0 {
			l = append(l, "volume_mappings have no effect with mount_filesystem_disable")
		}
	}
	return l
}

// pipelineNotes is notes for a pipeline.
func pipelineNotes(p Pipeline) []string {
	var l []string
	if p.FetchAllRefs && p.CloneDepth > 0 {
		l = append(l, "clone_depth has no effect with fetch_all_refs")
	}
	if r := p.Remote; p.DefinitionSource != remoteFile && (r.Project != "" || r.Ref != "" || r.Path != "" || len(r.Parameters) > 0) {
		l = append(l, "remote_project_name, remote_branch, remote_path and remote_parameters have no effect without definition_source REMOTE")
	}
	if !p.outside() && (p.VariablesByYAML || p.PermissionsByYAML) {
		l = append(l, "manage_variables_by_yaml and manage_permissions_by_yaml have no effect without a definition in a file")
	}
	return l
}

// pullNotes is notes for a run of a pull request.
func pullNotes(x Execution) (l []string) {
	if x.Frozen.GitChangesetBase == ofPull && x.PullRequest != "" && x.Base == "" {
		l = append(l, "git_changeset_base PULL_REQUEST is as LATEST_RUN_MATCHING_REF here: the branch that the pull request goes to is not known")
	}
	if x.untrusted() {
		l = append(l, withheld)
	}
	return l
}
