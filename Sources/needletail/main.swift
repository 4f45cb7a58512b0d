// The program people type. It links no LibTorch: verbs that need tensors are carried out by needletail-engine.
internal import CommandLineInterface

Program.main()
