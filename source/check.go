package source

// Check tells what SetRemote would make of a remote, credentials taken out of
// its URL, or why it would refuse it; nothing is stored and nobody is asked.
func (s *Sources) Check(r Remote) (Remote, error) {
	err := r.normalize(nil, s.cfg.Private)
	return r, err
}
