"""Read and write files: images, points, JSON, CSV, bytes. All writes are atomic.

=============  ==========================================================================
`images`       `read_image`, `read_header`, `write_image`: NIfTI, NRRD, MetaImage as RAS+ arrays
`nifti`        reader and writer of NIfTI-1 and NIfTI-2, with checks
`dicom`        DICOM series of slices, sorted and checked
`itk`          NRRD and MetaImage through SimpleITK
`json_files`   JSON; errors name the line
`tables`       CSV; formula cells are escaped
`points`       landmarks: 3D Slicer's Markups and fcsv, CSV, JSON
`atomic`       write to a temporary file, flush, rename
`lock`         one writer per folder
`ledger`       the list of files that mambamed wrote into a folder
`ownership`    which folder or file a command may write
`write_errors` one line for a file that cannot be written
=============  ==========================================================================
"""
